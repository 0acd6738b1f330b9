//! What a responder makes of a Hello, before anything has changed.

use super::head::{Code, Gone, Hello};

/// Whether `hello` makes a session, where none of its id is known.
///
/// # Errors
///
/// What to answer instead.
pub(crate) fn may_open(hello: &Hello) -> Result<(), Gone> {
    if !hello.opening {
        return Err(refusal(Code::Unknown));
    }
    if hello.epoch == 0 || hello.received != 0 {
        return Err(refusal(Code::Invalid));
    }
    Ok(())
}

/// Whether `hello` goes on with a session of its id and its peer, that has come to
/// `epoch` and speaks `protocol`. `possible`: its position is one that the peer can
/// have reached.
///
/// # Errors
///
/// What to answer instead. The session is as it was.
pub(crate) fn may_resume(
    hello: &Hello,
    epoch: u64,
    protocol: &str,
    possible: bool,
) -> Result<(), Gone> {
    let valid = possible && hello.epoch > epoch && hello.protocol == protocol;
    if valid { Ok(()) } else { Err(refusal(Code::Invalid)) }
}

fn refusal(code: Code) -> Gone {
    Gone { code, received: 0 }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn hello(epoch: u64, opening: bool, received: u64) -> Hello {
        let (id, window, timeout) = ([7; 16], 0, Duration::ZERO);
        let protocol = "/p".to_owned();
        Hello { id, epoch, opening, received, window, timeout, protocol }
    }

    #[test]
    fn a_session_is_made_by_those_who_open_one_from_its_beginning() {
        assert_eq!(may_open(&hello(1, true, 0)), Ok(()));
        assert_eq!(may_open(&hello(9, true, 0)), Ok(()), "the first ones were lost");
        assert_eq!(may_open(&hello(2, false, 0)), Err(refusal(Code::Unknown)));
        assert_eq!(may_open(&hello(0, true, 0)), Err(refusal(Code::Invalid)));
        assert_eq!(may_open(&hello(1, true, 1)), Err(refusal(Code::Invalid)));
    }

    #[test]
    fn a_session_goes_on_by_a_newer_epoch_only() {
        let invalid = Err(refusal(Code::Invalid));
        assert_eq!(may_resume(&hello(3, false, 5), 2, "/p", true), Ok(()));
        assert_eq!(may_resume(&hello(3, true, 0), 1, "/p", true), Ok(()), "it was opened twice");
        assert_eq!(may_resume(&hello(2, false, 5), 2, "/p", true), invalid);
        assert_eq!(may_resume(&hello(0, false, 5), u64::MAX, "/p", true), invalid);
        assert_eq!(may_resume(&hello(3, false, 5), 2, "/q", true), invalid);
        assert_eq!(may_resume(&hello(3, false, 5), 2, "/p", false), invalid);
    }
}
