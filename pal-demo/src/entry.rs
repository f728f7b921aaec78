//! What may be a PAL's entry function: an `extern "C"` function of as many words as a PAL has
//! parameters, or fewer.

/// A function pointer that a PAL is entered by.
///
/// Arguments and result are words, or pointers to words. References would be wrong: the function
/// gets a pointer to a copy that lies in the PAL's memory.
///
/// # Safety
/// For function pointers alone: the value is the address.
pub unsafe trait Entry: Copy {
    /// How many arguments it takes.
    const ARGUMENTS: usize;

    /// Where it lies.
    fn address(self) -> usize;

    /// The function at another address.
    ///
    /// # Safety
    /// The same code lies there, or a PAL with that entry is registered.
    unsafe fn at(address: usize) -> Self;
}

macro_rules! entry {
    ($count:literal $($argument:ident)*) => {
        // SAFETY: a function pointer.
        unsafe impl<R $(, $argument)*> Entry for extern "C" fn($($argument),*) -> R {
            const ARGUMENTS: usize = $count;

            fn address(self) -> usize {
                (self as *const ()).expose_provenance()
            }

            unsafe fn at(address: usize) -> Self {
                let code = core::ptr::with_exposed_provenance::<()>(address);
                // SAFETY: pointers of the same size; the caller says that the function is there.
                unsafe { core::mem::transmute::<*const (), Self>(code) }
            }
        }
    };
}

entry!(0);
entry!(1 A);
entry!(2 A B);
entry!(3 A B C);
entry!(4 A B C D);
entry!(5 A B C D E);
entry!(6 A B C D E F);
entry!(7 A B C D E F G);
entry!(8 A B C D E F G H);
entry!(9 A B C D E F G H I);
entry!(10 A B C D E F G H I J);
