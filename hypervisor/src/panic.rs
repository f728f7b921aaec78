//! What a panic does: says so, and enters the debugger.

use core::panic::PanicInfo;

use crate::debug::host;
use crate::log::{self, log};

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    log::retake_console();
    log!("the hypervisor panicked: {}", info.message());
    if let Some(location) = info.location() {
        log!("  at {location}");
    }
    host::panicked()
}
