//! System calls without libc, for the child.
//!
//! Until it executes, the child shares the server's memory but is another process: libc's errno, locks and caches belong to the
//! thread that waits for it. So nothing here touches thread-local state, allocates or panics.
use std::ffi::CStr;

#[cfg(not(target_arch = "x86_64"))]
compile_error!("sandboxes are launched by x86_64 system calls only; another architecture needs its own launch/raw.rs and seccomp table");

/// A system call's error number, positive.
pub(super) type Errno = i32;

/// # Safety
/// As for the system call itself: every pointer among the arguments must be good for what the kernel does with it.
#[inline]
pub(super) unsafe fn syscall(number: i64, args: [usize; 6]) -> Result<usize, Errno> {
    let result: isize;
    // SAFETY: the x86_64 convention: the kernel changes rax, rcx and r11, and memory as the caller has vouched for.
    unsafe {
        std::arch::asm!(
            "syscall",
            inlateout("rax") number as isize => result,
            in("rdi") args[0],
            in("rsi") args[1],
            in("rdx") args[2],
            in("r10") args[3],
            in("r8") args[4],
            in("r9") args[5],
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    // The last page of addresses stands for error numbers.
    if (-4095..0).contains(&result) { Err(-result as Errno) } else { Ok(result as usize) }
}

/// Calls clone3 and runs `main(argument)` in the child on the stack named in `args`; returns the child's pid.
///
/// # Safety
/// `args` is a valid `struct clone_args` whose stack is large enough, 16-byte aligned at its end, and used by nobody else until
/// the child has executed or died; the same holds for what `argument` points to. With CLONE_VM, `main` keeps to this module's rule.
pub(super) unsafe fn clone3(args: &libc::clone_args, main: unsafe extern "C" fn(usize) -> !, argument: usize) -> Result<usize, Errno> {
    let result: isize;
    // SAFETY: the parent goes on behind the asm with only rax, rcx and r11 changed. The child has the same registers but the
    // new stack, so it must not reach the surrounding frame: it calls `main`, which never returns.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "call r13",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 as isize => result,
            in("rdi") std::ptr::from_ref(args),
            in("rsi") size_of::<libc::clone_args>(),
            in("r12") argument,
            in("r13") main as usize,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    if result < 0 { Err(-result as Errno) } else { Ok(result as usize) }
}

/// A system call with integers only.
pub(super) fn plain(number: i64, args: [usize; 6]) -> Result<usize, Errno> {
    // SAFETY: callers in this folder pass no pointers by this way.
    unsafe { syscall(number, args) }
}

/// Makes a call's arguments from pointers and integers.
macro_rules! call {
    ($number:expr $(, $arg:expr)* $(,)?) => {{
        let args = $crate::launch::raw::words([$( $crate::launch::raw::Arg::word($arg) ),*]);
        // SAFETY: every pointer is made from a live reference or from a C string in the plan, and the kernel only uses it during the call.
        unsafe { $crate::launch::raw::syscall($number, args) }
    }};
}
pub(super) use call;

/// Fills up to six.
pub(super) fn words<const N: usize>(given: [usize; N]) -> [usize; 6] {
    const { assert!(N <= 6) };
    let mut words = [0; 6];
    for (word, value) in words.iter_mut().zip(given) {
        *word = value;
    }
    words
}

/// What may stand as an argument in [`call!`].
pub(super) trait Arg {
    fn word(self) -> usize;
}

impl Arg for i32 {
    fn word(self) -> usize {
        self as isize as usize
    }
}

impl Arg for u32 {
    fn word(self) -> usize {
        self as usize
    }
}

impl Arg for u64 {
    fn word(self) -> usize {
        self as usize
    }
}

impl Arg for usize {
    fn word(self) -> usize {
        self
    }
}

impl Arg for &CStr {
    fn word(self) -> usize {
        self.as_ptr() as usize
    }
}

impl<T> Arg for *const T {
    fn word(self) -> usize {
        self as usize
    }
}

impl<T> Arg for *mut T {
    fn word(self) -> usize {
        self as usize
    }
}
