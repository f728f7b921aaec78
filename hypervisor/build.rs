//! Links the image at its fixed virtual address, with nothing of the host's.

fn main() {
    let script = format!(
        "{}/image.ld",
        std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default()
    );
    println!("cargo:rerun-if-changed={script}");
    println!("cargo:rustc-check-cfg=cfg(aes_backend, values(\"soft\"))");
    for argument in [
        &format!("-T{script}"),
        "-nostdlib",
        "-nostartfiles",
        "-static",
        "-no-pie",
        "-Wl,--build-id=none",
        "-Wl,-z,max-page-size=4096",
    ] {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
}
