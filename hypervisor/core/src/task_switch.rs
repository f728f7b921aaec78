//! Task switches, which VMX leaves to the hypervisor.
