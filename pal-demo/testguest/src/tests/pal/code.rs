//! What the PALs of these tests do. Each is copied to a page of its own, so none refers
//! to anything outside; its data is the page behind its code.
//!
//! Where nothing else is said a PAL takes an integer `a` and a pointer `p` to four words.

use core::arch::naked_asm;

use stillpoint_abi::detect::TRUSTVISOR_LEAF;

/// Answers `a + p[0]`, adds 1 to `p[0]`, and leaves `a` in `p[1]`.
#[unsafe(naked)]
pub unsafe extern "C" fn add() {
    naked_asm!(
        "mov rax, [rsi]",
        "inc qword ptr [rsi]",
        "add rax, rdi",
        "mov [rsi + 8], rdi",
        "ret",
    )
}

/// Eight parameters, of which the second and the fourth are pointers: answers them as
/// the digits of a number to base 3, adds 1 to what the second points to, and leaves the
/// answer in the second word of the fourth.
#[unsafe(naked)]
pub unsafe extern "C" fn digits() {
    naked_asm!(
        "mov rax, rdi",
        "lea rax, [rax + 2 * rax]",
        "add rax, [rsi]",
        "lea rax, [rax + 2 * rax]",
        "add rax, rdx",
        "lea rax, [rax + 2 * rax]",
        "add rax, [rcx]",
        "lea rax, [rax + 2 * rax]",
        "add rax, r8",
        "lea rax, [rax + 2 * rax]",
        "add rax, r9",
        "lea rax, [rax + 2 * rax]",
        "add rax, [rsp + 8]",
        "lea rax, [rax + 2 * rax]",
        "add rax, [rsp + 16]",
        "inc qword ptr [rsi]",
        "mov [rcx + 8], rax",
        "ret",
    )
}

/// [`digits`] for 32-bit code.
#[unsafe(naked)]
pub unsafe extern "C" fn digits32() {
    naked_asm!(
        ".code32",
        "mov eax, [esp + 4]",
        "mov ecx, [esp + 8]",
        "mov edx, [esp + 16]",
        "lea eax, [eax + 2 * eax]",
        "add eax, [ecx]",
        "lea eax, [eax + 2 * eax]",
        "add eax, [esp + 12]",
        "lea eax, [eax + 2 * eax]",
        "add eax, [edx]",
        "lea eax, [eax + 2 * eax]",
        "add eax, [esp + 20]",
        "lea eax, [eax + 2 * eax]",
        "add eax, [esp + 24]",
        "lea eax, [eax + 2 * eax]",
        "add eax, [esp + 28]",
        "lea eax, [eax + 2 * eax]",
        "add eax, [esp + 32]",
        "inc dword ptr [ecx]",
        "mov [edx + 4], eax",
        "ret",
        ".code64",
    )
}

/// Leaves what CPUID says of the PAL in `p`: EAX, EBX, ECX, EDX.
#[unsafe(naked)]
pub unsafe extern "C" fn detect() {
    naked_asm!(
        "push rbx",
        "mov eax, {leaf}",
        "xor ecx, ecx",
        "cpuid",
        "mov [rsi], rax",
        "mov [rsi + 8], rbx",
        "mov [rsi + 16], rcx",
        "mov [rsi + 24], rdx",
        "pop rbx",
        "ret",
        leaf = const TRUSTVISOR_LEAF,
    )
}

/// [`detect`] for 32-bit code.
#[unsafe(naked)]
pub unsafe extern "C" fn detect32() {
    naked_asm!(
        ".code32",
        "push ebx",
        "push esi",
        "mov esi, [esp + 16]",
        "mov eax, {leaf}",
        "xor ecx, ecx",
        "cpuid",
        "mov [esi], eax",
        "mov [esi + 4], ebx",
        "mov [esi + 8], ecx",
        "mov [esi + 12], edx",
        "pop esi",
        "pop ebx",
        "ret",
        ".code64",
        leaf = const TRUSTVISOR_LEAF,
    )
}

/// Fills its data with `a`, and answers what was in its first word.
#[unsafe(naked)]
pub unsafe extern "C" fn fill() {
    naked_asm!(
        "mov rax, rdi",
        "lea rdi, [rip]",
        "and rdi, -4096",
        "add rdi, 4096",
        "mov r8, [rdi]",
        "mov ecx, 512",
        "rep stosq",
        "mov rax, r8",
        "ret",
    )
}

/// Takes `a` rounds, and leaves in `p` when it began, when it ended, and `a`.
#[unsafe(naked)]
pub unsafe extern "C" fn spin() {
    naked_asm!(
        "rdtsc",
        "shl rdx, 32",
        "or rax, rdx",
        "mov [rsi], rax",
        "mov [rsi + 16], rdi",
        "2: dec rdi",
        "jnz 2b",
        "rdtsc",
        "shl rdx, 32",
        "or rax, rdx",
        "mov [rsi + 8], rax",
        "mov rax, [rsi + 16]",
        "ret",
    )
}

/// Writes its data, and never comes back.
#[unsafe(naked)]
pub unsafe extern "C" fn for_ever() {
    naked_asm!(
        "lea rax, [rip]",
        "and rax, -4096",
        "mov [rax + 4096], rdi",
        "2: pause",
        "jmp 2b",
    )
}

/// Writes `a + 1` to the word at the address in `p[0]`, and answers what was there.
#[unsafe(naked)]
pub unsafe extern "C" fn store() {
    naked_asm!(
        "mov rdx, [rsi]",
        "mov rax, [rdx]",
        "inc rdi",
        "mov [rdx], rdi",
        "ret",
    )
}

/// Takes no parameters, and answers 42.
#[unsafe(naked)]
pub unsafe extern "C" fn nothing() {
    naked_asm!("mov eax, 42", "ret")
}
