//! From the table to classic BPF.
use std::collections::BTreeMap;

use libc::{BPF_ABS, BPF_JA, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_RET, BPF_W, sock_filter};

use super::table::{Check, Checked, Group, Verdict};

const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
const OFFSET_NUMBER: u32 = 0;
const OFFSET_ARCH: u32 = 4;
const OFFSET_ARGS: u32 = 16;

/// Calls of the x32 architecture have this bit; it is a second way to every call.
const X32_BIT: u32 = 0x4000_0000;

#[derive(Clone, Copy)]
enum Leaf {
    Verdict(Verdict),
    Checked(&'static Checked),
}

/// What stands in neither list has the verdict `unknown`; and what is to be killed gets `kill`.
pub(super) fn compile(groups: &'static [Group], checked: &'static [Checked], unknown: Verdict, kill: Verdict) -> Vec<sock_filter> {
    let kill = action(kill, libc::SECCOMP_RET_KILL_PROCESS);
    let mut program = vec![
        load(OFFSET_ARCH),
        jump(BPF_JEQ, AUDIT_ARCH_X86_64, 1, 0),
        ret(libc::SECCOMP_RET_KILL_PROCESS),
        load(OFFSET_NUMBER),
        jump(BPF_JGE, X32_BIT, 0, 1),
        ret(libc::SECCOMP_RET_KILL_PROCESS),
    ];
    program.extend(tree(&runs(groups, checked, unknown), kill));
    debug_assert!(program.len() < 4096, "the kernel's limit");
    program
}

/// The table as runs of call numbers with one outcome: each begins at its number and ends where the next begins.
fn runs(groups: &'static [Group], checked: &'static [Checked], unknown: Verdict) -> Vec<(u32, Leaf)> {
    let mut calls: BTreeMap<u32, Leaf> = BTreeMap::new();
    for group in groups {
        for call in group.calls {
            calls.insert(*call as u32, Leaf::Verdict(group.verdict));
        }
    }
    for checked in checked {
        calls.insert(checked.call as u32, Leaf::Checked(checked));
    }
    let unknown = Leaf::Verdict(unknown);
    let last = calls.keys().next_back().copied().unwrap_or(0);
    let mut runs: Vec<(u32, Leaf)> = Vec::new();
    for number in 0..=last + 1 {
        let leaf = calls.get(&number).copied().unwrap_or(unknown);
        let goes_on = match (runs.last(), leaf) {
            (Some((_, Leaf::Verdict(before))), Leaf::Verdict(now)) => *before == now,
            (Some(_) | None, Leaf::Verdict(_) | Leaf::Checked(_)) => false,
        };
        if !goes_on {
            runs.push((number, leaf));
        }
    }
    runs
}

fn tree(runs: &[(u32, Leaf)], kill: u32) -> Vec<sock_filter> {
    match runs {
        [] => vec![ret(kill)],
        [(_, Leaf::Verdict(verdict))] => vec![ret(action(*verdict, kill))],
        [(_, Leaf::Checked(checked))] => arguments(checked, kill),
        _ => {
            let (low, high) = runs.split_at(runs.len() / 2);
            let (first_high, _) = high[0];
            let low = tree(low, kill);
            let mut out = match u8::try_from(low.len()) {
                Ok(over) => vec![jump(BPF_JGE, first_high, over, 0)],
                // A conditional jump reaches 255 instructions, the plain one everywhere.
                Err(_) => vec![jump(BPF_JGE, first_high, 0, 1), instruction(BPF_JMP | BPF_JA, low.len() as u32)],
            };
            out.extend(low);
            out.extend(tree(high, kill));
            out
        }
    }
}

fn arguments(checked: &Checked, kill: u32) -> Vec<sock_filter> {
    let mut out = Vec::new();
    for (conditions, verdict) in checked.checks {
        // From the last condition back, so that each knows how far it is to the next check.
        let mut code = vec![ret(action(*verdict, kill))];
        for condition in conditions.iter().rev() {
            let miss = code.len() as u8;
            let mut test = match *condition {
                Check::Equal(arg, value) => {
                    vec![load(low_word(arg)), jump(BPF_JEQ, value, 0, miss)]
                }
                Check::AnyOf(arg, mask) => vec![load(low_word(arg)), jump(BPF_JSET, mask, 0, miss)],
                Check::NotNull(arg) => {
                    vec![load(low_word(arg)), jump(BPF_JEQ, 0, 0, 2), load(low_word(arg) + 4), jump(BPF_JEQ, 0, miss, 0)]
                }
            };
            test.extend(code);
            code = test;
        }
        out.extend(code);
    }
    out.push(ret(action(checked.otherwise, kill)));
    out
}

fn low_word(arg: u32) -> u32 {
    OFFSET_ARGS + 8 * arg
}

fn load(offset: u32) -> sock_filter {
    instruction(BPF_LD | BPF_W | BPF_ABS, offset)
}

fn action(verdict: Verdict, kill: u32) -> u32 {
    match verdict {
        Verdict::Allow => libc::SECCOMP_RET_ALLOW,
        Verdict::Errno(errno) => libc::SECCOMP_RET_ERRNO | errno.unsigned_abs(),
        Verdict::Kill => kill,
    }
}

fn ret(action: u32) -> sock_filter {
    instruction(BPF_RET | BPF_K, action)
}

fn instruction(code: u32, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

fn jump(kind: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code: (BPF_JMP | kind | BPF_K) as u16, jt, jf, k }
}

#[cfg(test)]
mod tests {
    use super::super::{CHECKED, GROUPS, compute};
    use super::*;

    fn judge(arch: u32, number: u32, args: [u64; 6]) -> u32 {
        judge_by(super::super::filter(), arch, number, args)
    }

    /// Runs the program as the kernel would.
    fn judge_by(program: &[sock_filter], arch: u32, number: u32, args: [u64; 6]) -> u32 {
        let word = |offset: u32| match offset {
            OFFSET_NUMBER => number,
            OFFSET_ARCH => arch,
            _ => {
                let at = offset - OFFSET_ARGS;
                (args[(at / 8) as usize] >> (8 * (at % 8))) as u32
            }
        };
        let (mut at, mut a) = (0usize, 0u32);
        loop {
            let i = program[at];
            let code = u32::from(i.code);
            at += 1;
            if code == BPF_RET | BPF_K {
                return i.k;
            } else if code == BPF_LD | BPF_W | BPF_ABS {
                a = word(i.k);
            } else if code == BPF_JMP | BPF_JA {
                at += i.k as usize;
            } else {
                let holds = match code & 0xf0 {
                    BPF_JEQ => a == i.k,
                    BPF_JGE => a >= i.k,
                    BPF_JSET => a & i.k != 0,
                    other => panic!("instruction {other:#x}"),
                };
                at += usize::from(if holds { i.jt } else { i.jf });
            }
        }
    }

    fn call(number: libc::c_long, args: [u64; 6]) -> u32 {
        judge(AUDIT_ARCH_X86_64, number as u32, args)
    }

    const ALLOWED: u32 = libc::SECCOMP_RET_ALLOW;

    fn errno(e: i32) -> u32 {
        libc::SECCOMP_RET_ERRNO | e as u32
    }

    #[test]
    fn every_entry_of_the_table_comes_out_as_it_says() {
        let mut seen = std::collections::BTreeSet::new();
        for group in GROUPS {
            for number in group.calls {
                assert!(seen.insert(*number), "{number} is named twice");
                let want = match group.verdict {
                    Verdict::Allow => ALLOWED,
                    Verdict::Errno(e) => errno(e),
                    Verdict::Kill => libc::SECCOMP_RET_KILL_PROCESS,
                };
                assert_eq!(call(*number, [0; 6]), want, "call {number}");
            }
        }
        for checked in CHECKED {
            assert!(seen.insert(checked.call), "{} is named twice", checked.call);
        }
        for number in (0..2000).filter(|n| !seen.contains(n)) {
            assert_eq!(call(number, [0; 6]), errno(libc::ENOSYS), "call {number}");
        }
    }

    #[test]
    fn other_architectures_are_killed() {
        const AUDIT_ARCH_I386: u32 = 0x4000_0003;
        assert_eq!(judge(AUDIT_ARCH_I386, 1, [0; 6]), libc::SECCOMP_RET_KILL_PROCESS);
        assert_eq!(judge(AUDIT_ARCH_X86_64, X32_BIT | 1, [0; 6]), libc::SECCOMP_RET_KILL_PROCESS);
        assert_eq!(judge(AUDIT_ARCH_X86_64, u32::MAX, [0; 6]), libc::SECCOMP_RET_KILL_PROCESS);
    }

    #[test]
    fn arguments_decide() {
        let socket = |domain: i32, protocol: i32| call(libc::SYS_socket, [domain as u64, 1, protocol as u64, 0, 0, 0]);
        assert_eq!(socket(libc::AF_UNIX, 0), ALLOWED);
        assert_eq!(socket(libc::AF_INET, libc::IPPROTO_TCP), ALLOWED);
        assert_eq!(socket(libc::AF_INET6, 0), ALLOWED);
        assert_eq!(socket(libc::AF_INET, libc::IPPROTO_SCTP), errno(libc::EPROTONOSUPPORT));
        assert_eq!(socket(libc::AF_INET6, 262), errno(libc::EPROTONOSUPPORT));
        assert_eq!(socket(libc::AF_NETLINK, libc::NETLINK_ROUTE), ALLOWED);
        assert_eq!(socket(libc::AF_NETLINK, libc::NETLINK_NETFILTER), errno(libc::EAFNOSUPPORT));
        for domain in [libc::AF_PACKET, libc::AF_ALG, libc::AF_VSOCK, libc::AF_KEY, libc::AF_XDP, libc::AF_BLUETOOTH, libc::AF_CAN] {
            assert_eq!(socket(domain, 0), errno(libc::EAFNOSUPPORT));
        }
        // The kernel ignores the high half of an int, so it must not hide anything.
        assert_eq!(call(libc::SYS_ioctl, [0, 1 << 32 | libc::TIOCSTI, 0, 0, 0, 0]), errno(libc::EPERM));
        assert_eq!(call(libc::SYS_ioctl, [0, libc::TIOCGWINSZ, 0, 0, 0, 0]), ALLOWED);
        assert_eq!(call(libc::SYS_clone, [libc::SIGCHLD as u64, 0, 0, 0, 0, 0]), ALLOWED);
        assert_eq!(call(libc::SYS_clone, [libc::CLONE_NEWUSER as u64, 0, 0, 0, 0, 0]), errno(libc::EPERM));
        assert_eq!(call(libc::SYS_unshare, [libc::CLONE_FILES as u64, 0, 0, 0, 0, 0]), ALLOWED);
        assert_eq!(call(libc::SYS_personality, [8, 0, 0, 0, 0, 0]), errno(libc::EPERM));
        let core = u64::from(libc::RLIMIT_CORE);
        assert_eq!(call(libc::SYS_prlimit64, [0, core, 0, 1, 0, 0]), ALLOWED);
        assert_eq!(call(libc::SYS_prlimit64, [0, core, 1 << 40, 0, 0, 0]), errno(0));
        assert_eq!(call(libc::SYS_prlimit64, [0, 7, 1 << 40, 0, 0, 0]), ALLOWED);
    }

    #[test]
    fn who_only_computes_may_do_what_the_list_says_and_nothing_else() {
        for (filter, kill) in
            [(super::super::compute_filter(Verdict::Kill), libc::SECCOMP_RET_KILL_PROCESS), (super::super::compute_filter(Verdict::Errno(1)), errno(1))]
        {
            check_compute_filter(&filter, kill);
            let another = judge_by(&filter, AUDIT_ARCH_X86_64, libc::SYS_seccomp as u32, [libc::SECCOMP_SET_MODE_FILTER.into(), 0, 0, 0, 0, 0]);
            assert_eq!(another, if kill == libc::SECCOMP_RET_KILL_PROCESS { kill } else { ALLOWED }, "only before the last filter there is another one");
            assert_eq!(judge_by(&filter, AUDIT_ARCH_X86_64, X32_BIT, [0; 6]), libc::SECCOMP_RET_KILL_PROCESS);
        }
    }

    fn check_compute_filter(filter: &[sock_filter], kill: u32) {
        let judge = |number: libc::c_long, args| judge_by(filter, AUDIT_ARCH_X86_64, number as u32, args);
        let mut named = std::collections::BTreeSet::new();
        for group in compute::GROUPS {
            for number in group.calls {
                assert!(named.insert(*number), "{number} is named twice");
                assert_eq!(judge(*number, [0; 6]), ALLOWED, "call {number}");
            }
        }
        for checked in compute::CHECKED_BEFORE_LAST {
            assert!(named.insert(checked.call), "{} is named twice", checked.call);
        }
        for number in (0..2000).filter(|n| !named.contains(n)) {
            assert_eq!(judge(number, [0; 6]), kill, "call {number}");
        }
        for (number, fd, want) in
            [(libc::SYS_read, 0, ALLOWED), (libc::SYS_read, 3, kill), (libc::SYS_write, 0, ALLOWED), (libc::SYS_write, 2, ALLOWED), (libc::SYS_write, 3, kill)]
        {
            assert_eq!(judge(number, [fd, 0, 0, 0, 0, 0]), want);
        }
        for number in [libc::SYS_mmap, libc::SYS_mprotect] {
            assert_eq!(judge(number, [0, 4096, (libc::PROT_READ | libc::PROT_WRITE) as u64, 0, 0, 0]), ALLOWED);
            assert_eq!(judge(number, [0, 4096, (libc::PROT_READ | libc::PROT_EXEC) as u64, 0, 0, 0]), kill);
        }
    }
}
