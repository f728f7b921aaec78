//! Storms of NMIs between the CPUs, counted one by one, while every CPU makes
//! exits of all kinds and stops the whole machine.
//!
//! On the bare machine the same storms show that the expectations are the
//! processor's. Each prints a line `storm NAME pattern=… sent=… seen=… …`, which the
//! host adds up.

mod acknowledged;
mod flood;
mod load;
mod orders;
mod pairs;
mod restarts;
mod tally;
mod traffic;

use crate::harness::Test;
use crate::tests;

use acknowledged::{
    acknowledged_amid_exits, acknowledged_amid_quiesces, acknowledged_without_exits,
};
use flood::{flood_amid_exits, flood_amid_quiesces, flood_without_exits};
use pairs::{pairs_amid_exits, pairs_amid_quiesces, pairs_without_exits};
use restarts::{quiesces_from_all_cpus, restarts_amid_exits, restarts_amid_quiesces};

/// Storms.
pub const TESTS: &[Test] = tests![
    acknowledged_without_exits,
    acknowledged_amid_exits,
    acknowledged_amid_quiesces,
    pairs_without_exits,
    pairs_amid_exits,
    pairs_amid_quiesces,
    flood_without_exits,
    flood_amid_exits,
    flood_amid_quiesces,
    quiesces_from_all_cpus,
    restarts_amid_exits,
    restarts_amid_quiesces,
];
