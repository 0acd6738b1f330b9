//! One face over two implementations, so that a scenario is written once and
//! runs in every pairing: libp2p to libp2p (the node is right), pointsub to
//! libp2p and libp2p to pointsub.

mod libp2p_node;
mod limit;
mod node;
mod pointsub_node;
pub mod scenarios;

pub use libp2p_node::{Libp2pNode, Seen};
pub use limit::within;
pub use node::{Duplex, Handler, Node, WriteEnd};
pub use pointsub_node::PointsubNode;
