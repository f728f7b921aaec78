//! INS and OUTS at a port that is hidden from the guest.
