//! The packets that the session answers itself, told apart from those for gdbstub.
//!
//! Some say more than gdbstub can (`?` with the reason of the stop, names in the
//! thread list, the end of a `qXfer` in its first piece, monitor output in few
//! packets); some gdbstub takes for a protocol error and gives up on (`Hg-1`); one
//! (`m` of more than fits) it would work at for a long time.

use crate::framer::{LARGEST_BODY, hex_digit};

/// The most bytes that one read can return, at two digits each.
pub const LARGEST_READ: u64 = LARGEST_BODY as u64 / 2;

// A page in one packet.
const _: () = assert!(LARGEST_READ >= 4096);

/// A packet, as the session deals with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// `qSupported`: a client has come.
    Supported,
    /// `?`
    StopReason,
    /// `qC`
    CurrentThread,
    /// `Hg`: the CPU that register and memory packets are about.
    SelectThread(Thread),
    /// `Hc`: what `c` and `s` would be about. Nothing here depends on it.
    SelectResumedThread,
    /// `qXfer:features:read` of `target.xml`.
    TargetXml(Piece),
    /// `qXfer:threads:read`.
    Threads(Piece),
    /// `x`: memory as it is, not in hexadecimal, for GDB 16 and later.
    ReadBinary {
        /// First virtual address.
        address: u64,
        /// The most bytes wanted.
        length: u64,
    },
    /// `qRcmd`, with the command in hexadecimal.
    Monitor(&'a [u8]),
    /// `vKill`, which wants an answer, as `k` does not.
    Kill,
    /// `c` and `C`, from where the machine is.
    Continue,
    /// `s` and `S`, from where the CPU is.
    Step,
    /// What an empty answer says is not to be had: watchpoints on reads alone, for
    /// which GDB then tries reads and writes.
    NotOffered,
    /// A request that cannot be meant.
    Malformed,
    /// Anything else.
    Other,
}

/// A thread id in an `H` packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Thread {
    /// 0 or -1: whichever, or all, which for one read means the same.
    Any,
    /// A thread.
    Id(u64),
}

/// The part of an object that a `qXfer` packet asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// First byte.
    pub offset: usize,
    /// The most bytes wanted.
    pub length: usize,
}

/// Parses what follows a packet's name.
type ParseRest = fn(&[u8]) -> Request<'_>;

/// Tells what a packet's body asks for.
pub fn parse(body: &[u8]) -> Request<'_> {
    const PREFIXES: [(&[u8], ParseRest); 9] = [
        (b"qSupported", |_| Request::Supported),
        (b"Hg", |thread| {
            parse_thread(thread).map_or(Request::Malformed, Request::SelectThread)
        }),
        (b"Hc", |_| Request::SelectResumedThread),
        (b"qXfer:features:read:", parse_features),
        (b"qXfer:threads:read::", |piece| {
            parse_piece(piece).map_or(Request::Malformed, Request::Threads)
        }),
        (b"qRcmd,", |digits| Request::Monitor(digits)),
        (b"vKill", |_| Request::Kill),
        (b"m", check_read),
        (b"x", parse_binary_read),
    ];
    match body {
        b"?" => return Request::StopReason,
        b"qC" => return Request::CurrentThread,
        b"qRcmd" => return Request::Monitor(&[]),
        b"c" | [b'C', _, _] => return Request::Continue,
        b"s" | [b'S', _, _] => return Request::Step,
        // From another address: GDB writes RIP instead.
        [b'c' | b'C' | b's' | b'S', ..] => return Request::Malformed,
        [b'z' | b'Z', b'3', b',', ..] => return Request::NotOffered,
        _ => {}
    }
    PREFIXES
        .into_iter()
        .find_map(|(prefix, parse)| body.strip_prefix(prefix).map(parse))
        .unwrap_or(Request::Other)
}

fn parse_features(rest: &[u8]) -> Request<'_> {
    match rest.strip_prefix(b"target.xml:") {
        Some(piece) => parse_piece(piece).map_or(Request::Malformed, Request::TargetXml),
        None => Request::Malformed,
    }
}

fn check_read(rest: &[u8]) -> Request<'_> {
    let length = rest
        .iter()
        .position(|&byte| byte == b',')
        .and_then(|comma| parse_hex(rest.get(comma + 1..)?));
    match length {
        Some(length) if length <= LARGEST_READ => Request::Other,
        _ => Request::Malformed,
    }
}

fn parse_binary_read(rest: &[u8]) -> Request<'_> {
    let split = rest
        .iter()
        .position(|&byte| byte == b',')
        .and_then(|comma| {
            Some((
                parse_hex(rest.get(..comma)?)?,
                parse_hex(rest.get(comma + 1..)?)?,
            ))
        });
    split.map_or(Request::Malformed, |(address, length)| {
        Request::ReadBinary { address, length }
    })
}

fn parse_piece(text: &[u8]) -> Option<Piece> {
    let comma = text.iter().position(|&byte| byte == b',')?;
    let number = |digits| parse_hex(digits).and_then(|n| usize::try_from(n).ok());
    Some(Piece {
        offset: number(text.get(..comma)?)?,
        length: number(text.get(comma + 1..)?)?,
    })
}

fn parse_thread(text: &[u8]) -> Option<Thread> {
    // A client that was told nothing of processes may still name one: `p1.2`.
    let thread = match text.strip_prefix(b"p") {
        Some(both) => both.get(both.iter().position(|&byte| byte == b'.')? + 1..)?,
        None => text,
    };
    match thread {
        b"-1" | b"0" => Some(Thread::Any),
        digits => parse_hex(digits).map(Thread::Id),
    }
}

/// One to sixteen hexadecimal digits and nothing else.
pub fn parse_hex(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > 16 {
        return None;
    }
    digits.iter().try_fold(0_u64, |value, &digit| {
        Some(value << 4 | u64::from(hex_digit(digit)?))
    })
}

/// Decodes pairs of hexadecimal digits into `out`. `None` for anything else, or more
/// than fits.
pub fn decode_hex<'a>(digits: &[u8], out: &'a mut [u8]) -> Option<&'a [u8]> {
    let (pairs, []) = digits.as_chunks::<2>() else {
        return None;
    };
    let out = out.get_mut(..pairs.len())?;
    for (byte, [high, low]) in out.iter_mut().zip(pairs) {
        *byte = hex_digit(*high)? << 4 | hex_digit(*low)?;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_packet_is_told_apart() {
        let cases: [(&[u8], Request<'_>); 34] = [
            (b"qSupported:multiprocess+;swbreak+", Request::Supported),
            (b"?", Request::StopReason),
            (b"qC", Request::CurrentThread),
            (b"qCRC:0,1", Request::Other),
            (b"Hg0", Request::SelectThread(Thread::Any)),
            (b"Hg-1", Request::SelectThread(Thread::Any)),
            (b"Hg1f", Request::SelectThread(Thread::Id(0x1f))),
            (b"Hgp1.2", Request::SelectThread(Thread::Id(2))),
            (b"Hgx", Request::Malformed),
            (b"Hc-1", Request::SelectResumedThread),
            (
                b"qXfer:features:read:target.xml:0,ffb",
                Request::TargetXml(Piece {
                    offset: 0,
                    length: 0xffb,
                }),
            ),
            (b"qXfer:features:read:other.xml:0,ffb", Request::Malformed),
            (
                b"qXfer:threads:read::10,20",
                Request::Threads(Piece {
                    offset: 16,
                    length: 32,
                }),
            ),
            (b"qXfer:threads:read::10", Request::Malformed),
            (b"qRcmd,68656c70", Request::Monitor(b"68656c70")),
            (b"qRcmd,", Request::Monitor(b"")),
            (b"qRcmd", Request::Monitor(b"")),
            (b"vKill;a410", Request::Kill),
            (b"vCont;c", Request::Other),
            (b"c", Request::Continue),
            (b"C05", Request::Continue),
            (b"s", Request::Step),
            (b"S05", Request::Step),
            (b"c1000", Request::Malformed),
            (b"C05;1000", Request::Malformed),
            (b"s1000", Request::Malformed),
            (b"S05;1000", Request::Malformed),
            (b"Z3,1000,4", Request::NotOffered),
            (b"Z2,1000,4", Request::Other),
            (b"m1000,4", Request::Other),
            (b"m1000,ffffffff", Request::Malformed),
            (
                b"x1000,4",
                Request::ReadBinary {
                    address: 0x1000,
                    length: 4,
                },
            ),
            (b"x1000", Request::Malformed),
            (b"", Request::Other),
        ];
        for (body, expected) in cases {
            assert_eq!(parse(body), expected, "{}", body.escape_ascii());
        }
    }

    #[test]
    fn hexadecimal_is_decoded_or_refused_whole() {
        let mut out = [0; 4];
        assert_eq!(decode_hex(b"00fF", &mut out), Some(&[0, 0xff][..]));
        assert_eq!(decode_hex(b"", &mut out), Some(&[][..]));
        for bad in [&b"0"[..], b"0g", b"0011223344"] {
            assert_eq!(decode_hex(bad, &mut out), None);
        }
        assert_eq!(parse_hex(b"ffffffffffffffff"), Some(u64::MAX));
        assert_eq!(parse_hex(b"10000000000000000"), None);
    }
}
