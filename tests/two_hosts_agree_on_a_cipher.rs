//! Two hosts seal with AES-256-GCM where both may and can, and with libp2p's cipher
//! elsewhere; `stats` says which.

use std::io::{Read, Write};

use pointsub::{Cipher, Conn, Host, Listener};

fn meet(client: Option<&[Cipher]>, server: Option<&[Cipher]>) -> [Cipher; 2] {
    let choose = |ciphers: Option<&[Cipher]>| match ciphers {
        Some(ciphers) => Host::builder().ciphers(ciphers),
        None => Host::builder(),
    };
    let server = choose(server).listen_on("127.0.0.1:0").build().unwrap();
    let client = choose(client).build().unwrap();
    let listener = Listener::bind(&server, "/echo/1.0.0").unwrap();
    let mut conn = Conn::connect(&client, &server.dial_addrs()[0], "/echo/1.0.0").unwrap();
    let (mut accepted, _) = listener.accept().unwrap();
    let mut back = [0; 5];
    conn.write_all(b"there").unwrap();
    accepted.read_exact(&mut back).unwrap();
    accepted.write_all(b"again").unwrap();
    conn.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"again");
    [conn.stats().cipher, accepted.stats().cipher]
}

#[cfg(target_arch = "x86_64")]
fn processor_has_aes() -> bool {
    std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq")
}

#[cfg(target_arch = "aarch64")]
fn processor_has_aes() -> bool {
    std::arch::is_aarch64_feature_detected!("aes")
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn processor_has_aes() -> bool {
    false
}

#[test]
fn aes_is_taken_by_default_where_the_processor_has_it() {
    let expected = if processor_has_aes() { Cipher::Aes256Gcm } else { Cipher::ChaCha20Poly1305 };
    assert_eq!(meet(None, None), [expected; 2]);
    assert_eq!(meet(Some(&[Cipher::Aes256Gcm]), None), [expected; 2]);
}

#[test]
fn one_host_that_may_not_is_enough_to_go_without() {
    let chacha: Option<&[Cipher]> = Some(&[Cipher::ChaCha20Poly1305]);
    for (client, server) in [(chacha, None), (None, chacha), (chacha, chacha), (Some(&[]), None)] {
        assert_eq!(meet(client, server), [Cipher::ChaCha20Poly1305; 2]);
    }
}

#[test]
fn a_cipher_says_its_usual_name() {
    assert_eq!(Cipher::Aes256Gcm.to_string(), "AES-256-GCM");
    assert_eq!(Cipher::ChaCha20Poly1305.to_string(), "ChaCha20-Poly1305");
}
