//! `utpm`: a tour of the micro-TPM. A PAL asks for each of its commands, and the program looks at
//! the answers. Prints `ok: WHAT` or `FAILED: WHAT` for each thing that is looked at, the values
//! that somebody else can check (PCR 0, the quote, the key), and at the end `utpm: all ok`, exit
//! status 0, or `utpm: N failed`, 1. Where no TrustVisor answers, it says so and exits 1.

use std::process::ExitCode;

use pal_demo::utpm::{
    self, DIGEST_SIZE, Digest, MAX_RANDOM, NVRAM_SIZE, PCRS, PcrInfo, SIGNATURE_SIZE, Selection,
};
use pal_demo::{Pal, TrustVisor};
use stillpoint_abi::{Hypercall, HypercallResult};

/// What PCR 1 is extended with; it was all zero before.
const MEASUREMENT: Digest = [
    1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20,
];
/// PCR 1 then: SHA-1 of zeroes and the measurement.
const EXTENDED: Digest = [
    0x5f, 0x42, 0x0e, 0x04, 0x95, 0x8b, 0x2e, 0x3f, 0x18, 0x07, 0x39, 0x1e, 0x99, 0xd9, 0x49, 0x2c,
    0x67, 0xaa, 0xef, 0xfd,
];
/// SHA-1 of the composite of that PCR alone.
const COMPOSITE: Digest = [
    0x1d, 0x26, 0x34, 0x30, 0xc5, 0x46, 0x7b, 0xca, 0xd5, 0x7f, 0x98, 0xee, 0xeb, 0x8b, 0xcb, 0x77,
    0x45, 0x18, 0x16, 0x77,
];
/// What stands before the PCRs in that composite: the selection, and 20 in 32 bits.
const COMPOSITE_HEAD: [u8; 7] = [1, 0, 2, 0, 0, 0, 20];

const SECRET: &[u8] = b"what the system is not to read\0";
const NVRAM: &[u8; NVRAM_SIZE] = b"thirty-two bytes of NV storage.\0";

const FAILURE: u64 = HypercallResult::Failure.code();
/// What the PAL returns where other code would panic: PAL code cannot.
const PANICKED: u64 = 0xdead;

/// Bytes for what comes out; more than may be asked for of random ones.
const ROOM: usize = 4104;

/// What goes in and out of the PAL. Which of it a command uses is in [`service`].
#[repr(C)]
#[derive(Clone)]
struct Exchange {
    index: u64,
    in_length: u64,
    out_length: u64,
    extra_length: u64,
    info: PcrInfo,
    nonce: Digest,
    input: [u8; 257],
    out: [u8; ROOM],
    extra: [u8; 256],
}

const _: () = assert!(size_of::<Exchange>().is_multiple_of(8));

type EntryFunction = extern "C" fn(u64, *mut Exchange) -> u64;

/// The PAL: does the micro-TPM's command and returns its result.
#[unsafe(link_section = "tv_pal")]
extern "C" fn service(command: u64, exchange: *mut Exchange) -> u64 {
    // SAFETY: TrustVisor passes the address of the PAL's copy, to which nothing else refers.
    let x = unsafe { &mut *exchange };
    match perform(command, x) {
        Ok(()) => 0,
        Err(error) => error,
    }
}

#[inline(always)]
fn perform(command: u64, x: &mut Exchange) -> Result<(), u64> {
    let input = x.input.get(..x.in_length as usize).ok_or(PANICKED)?;
    let is = |call: Hypercall| command == u64::from(call.command());
    if is(Hypercall::PcrRead) {
        utpm::read_pcr(x.index as u32, x.out.first_chunk_mut().ok_or(PANICKED)?)?;
    } else if is(Hypercall::PcrExtend) {
        utpm::extend_pcr(x.index as u32, x.input.first_chunk().ok_or(PANICKED)?)?;
    } else if is(Hypercall::GenerateRandom) {
        let wanted = x.out.get_mut(..x.out_length as usize).ok_or(PANICKED)?;
        x.out_length = utpm::random(wanted)? as u64;
    } else if is(Hypercall::Seal) {
        x.out_length = utpm::seal(&x.info, input, &mut x.out)? as u64;
    } else if is(Hypercall::Unseal) {
        let at_creation = x.extra.first_chunk_mut().ok_or(PANICKED)?;
        x.out_length = utpm::unseal(input, &mut x.out, at_creation)? as u64;
    } else if is(Hypercall::Quote) {
        let signature = x.out.first_chunk_mut().ok_or(PANICKED)?;
        let selection = x.info.selection;
        x.extra_length = utpm::quote(&selection, &x.nonce, signature, &mut x.extra)? as u64;
    } else if is(Hypercall::IdentityPublicKey) {
        x.out_length = utpm::public_key(&mut x.out)? as u64;
    } else if is(Hypercall::NvramGetSize) {
        x.out_length = utpm::nvram_size()? as u64;
    } else if is(Hypercall::NvramReadAll) {
        utpm::read_nvram(x.out.first_chunk_mut().ok_or(PANICKED)?)?;
    } else if is(Hypercall::NvramWriteAll) {
        utpm::write_nvram(x.input.first_chunk().ok_or(PANICKED)?)?;
    } else {
        return Err(PANICKED);
    }
    Ok(())
}

fn main() -> ExitCode {
    let Some(trustvisor) = TrustVisor::detect() else {
        println!("TrustVisor not present according to CPUID");
        return ExitCode::FAILURE;
    };
    let entry: EntryFunction = service;
    let pal = Pal::builder(trustvisor, entry)
        .integer()
        .pointer(size_of::<Exchange>() / 8)
        .parameter_pages(2)
        .register();
    let pal = match pal {
        Ok(pal) => pal,
        Err(error) => {
            println!("utpm: {error}");
            return ExitCode::FAILURE;
        }
    };
    let mut tour = Tour {
        service: pal.entry(),
        x: Exchange::empty(),
        failed: 0,
    };
    tour.pcrs();
    tour.random_numbers();
    tour.sealing();
    tour.nvram();
    let outside = utpm::read_pcr(1, &mut [0; DIGEST_SIZE]);
    tour.look("it answers nobody outside a PAL", outside == Err(FAILURE));
    tour.look("the PAL goes", pal.unregister().is_ok());
    match tour.failed {
        0 => println!("utpm: all ok"),
        failed => println!("utpm: {failed} failed"),
    }
    ExitCode::from(u8::from(tour.failed != 0))
}

impl Exchange {
    /// All of the room, nothing in it.
    fn empty() -> Self {
        Self {
            index: 0,
            in_length: 0,
            out_length: ROOM as u64,
            extra_length: 256,
            info: PcrInfo {
                selection: Selection::NONE,
                at_release: [0; DIGEST_SIZE],
                at_creation: [0; DIGEST_SIZE],
            },
            nonce: [0; DIGEST_SIZE],
            input: [0; 257],
            out: [0; ROOM],
            extra: [0; 256],
        }
    }

    /// What a command put out.
    fn output(&self) -> &[u8] {
        self.out.get(..self.out_length as usize).unwrap_or_default()
    }
}

struct Tour {
    service: EntryFunction,
    x: Exchange,
    failed: u32,
}

impl Tour {
    /// Has the PAL do a command on what is in `x`.
    fn ask(&mut self, command: Hypercall) -> u64 {
        (self.service)(command.command().into(), &raw mut self.x)
    }

    fn look(&mut self, what: &str, good: bool) {
        println!("{}: {what}", if good { "ok" } else { "FAILED" });
        self.failed += u32::from(!good);
    }

    fn read_pcr(&mut self, index: u32) -> Result<Digest, u64> {
        self.x = Exchange::empty();
        self.x.index = index.into();
        match self.ask(Hypercall::PcrRead) {
            0 => Ok(*self.x.out.first_chunk().unwrap_or(&[0; DIGEST_SIZE])),
            error => Err(error),
        }
    }

    fn extend_pcr(&mut self, index: u32) -> u64 {
        self.x = Exchange::empty();
        self.x.index = index.into();
        self.x.input[..DIGEST_SIZE].copy_from_slice(&MEASUREMENT);
        self.ask(Hypercall::PcrExtend)
    }

    fn pcrs(&mut self) {
        const ZERO: Result<Digest, u64> = Ok([0; DIGEST_SIZE]);
        const NO_SUCH_PCR: u64 = HypercallResult::PcrOutOfRange.code();
        let pcr0 = self.read_pcr(0);
        self.look("PCR 0 holds a measurement", pcr0.is_ok() && pcr0 != ZERO);
        print_hex("pcr0", &pcr0.unwrap_or_default());
        let all_zero = (1..PCRS).all(|index| self.read_pcr(index) == ZERO);
        self.look("PCRs 1 to 7 are zero", all_zero);
        let none = self.read_pcr(PCRS) == Err(NO_SUCH_PCR) && self.extend_pcr(PCRS) == NO_SUCH_PCR;
        self.look("there is no PCR 8", none);
        let extended = self.extend_pcr(1) == 0 && self.read_pcr(1) == Ok(EXTENDED);
        self.look("PCR 1 is extended", extended);
    }

    fn random_numbers(&mut self) {
        let mut draw = || {
            self.x = Exchange::empty();
            self.x.out_length = 32;
            let result = self.ask(Hypercall::GenerateRandom);
            (result, self.x.output().to_vec())
        };
        let (first, second) = (draw(), draw());
        let good = first.0 == 0 && second.0 == 0 && first.1.len() == 32 && first != second;
        self.look("random numbers are two", good);
        self.x = Exchange::empty();
        self.x.out_length = MAX_RANDOM as u64 + 1;
        let refused = self.ask(Hypercall::GenerateRandom) == FAILURE;
        self.look("too many random bytes are refused", refused);
    }

    /// Seals [`SECRET`]. The blob is empty where that fails or its length is wrong.
    fn seal(&mut self, to_pcr_1: bool) -> Vec<u8> {
        self.x = Exchange::empty();
        if to_pcr_1 {
            self.x.info.selection = Selection::one(1);
            self.x.info.at_release = COMPOSITE;
        }
        self.x.in_length = SECRET.len() as u64;
        self.x.input[..SECRET.len()].copy_from_slice(SECRET);
        let good = self.ask(Hypercall::Seal) == 0
            && self.x.output().len() == utpm::sealed_size(SECRET.len(), to_pcr_1);
        if good {
            self.x.output().to_vec()
        } else {
            Vec::new()
        }
    }

    /// Whether [`SECRET`] comes back from a blob; the error where it is refused.
    fn unseal(&mut self, blob: &[u8]) -> Result<bool, u64> {
        self.x = Exchange::empty();
        self.x.in_length = blob.len() as u64;
        self.x.input[..blob.len()].copy_from_slice(blob);
        match self.ask(Hypercall::Unseal) {
            0 => Ok(self.x.output() == SECRET),
            error => Err(error),
        }
    }

    fn sealing(&mut self) {
        let (bound, unbound) = (self.seal(true), self.seal(false));
        self.look("data is sealed", !bound.is_empty() && !unbound.is_empty());
        let back = self.unseal(&bound) == Ok(true);
        self.look("it comes back", back);
        let at_creation = self.x.extra.starts_with(&COMPOSITE);
        self.look("with the digest at creation", at_creation);
        let mut changed = bound.clone();
        if let Some(byte) = changed.get_mut(bound.len() / 2) {
            *byte ^= 1;
        }
        let refused = self.unseal(&changed) == Err(FAILURE);
        self.look("not from a changed blob", refused);
        let refused = self.unseal(&bound[..bound.len() / 2]) == Err(FAILURE);
        self.look("not from half a blob", refused);
        self.quote();
        let extended = self.extend_pcr(1) == 0;
        self.look("PCR 1 is extended again", extended);
        let refused = self.unseal(&bound) == Err(FAILURE);
        self.look("data sealed to it stays sealed", refused);
        let back = self.unseal(&unbound) == Ok(true);
        self.look("data sealed to nothing does not", back);
    }

    fn quote(&mut self) {
        self.x = Exchange::empty();
        self.x.info.selection = Selection::one(1);
        self.x.nonce = std::array::from_fn(|i| 0xa0 + i as u8);
        let quoted = self.ask(Hypercall::Quote) == 0;
        let length = self.x.extra_length as usize;
        let composite = self.x.extra.get(..length).unwrap_or_default().to_vec();
        let good = quoted && composite == [&COMPOSITE_HEAD[..], &EXTENDED].concat();
        self.look("PCR 1 is quoted", good);
        print_hex("nonce", &self.x.nonce);
        print_hex("composite", if good { &composite } else { &[] });
        let signature = &self.x.out[..SIGNATURE_SIZE];
        print_hex("signature", if good { signature } else { &[] });
        self.x = Exchange::empty();
        let good =
            self.ask(Hypercall::IdentityPublicKey) == 0 && self.x.output().len() > SIGNATURE_SIZE;
        self.look("the key is there", good);
        print_hex("key", if good { self.x.output() } else { &[] });
    }

    fn nvram(&mut self) {
        self.x = Exchange::empty();
        let size = self.ask(Hypercall::NvramGetSize) == 0 && self.x.out_length == NVRAM_SIZE as u64;
        self.look("NV storage has a size", size);
        self.x = Exchange::empty();
        self.x.input[..NVRAM_SIZE].copy_from_slice(NVRAM);
        let written = self.ask(Hypercall::NvramWriteAll) == 0;
        self.look("it is written", written);
        self.x = Exchange::empty();
        let read = self.ask(Hypercall::NvramReadAll) == 0 && self.x.out.starts_with(NVRAM);
        self.look("and read", read);
    }
}

fn print_hex(name: &str, bytes: &[u8]) {
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    println!("{name}: {digits}");
}
