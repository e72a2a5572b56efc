// SPDX-License-Identifier: GPL-2.0

//! What a sound kernel does not say.

/// Parts of lines that tell of a bug, be it found by the kernel itself or by one of its checkers.
const WORDS: [&str; 26] = [
    "WARNING:",
    "BUG:",
    "BUG ",
    "kernel BUG at",
    "Oops",
    "KASAN",
    "KCSAN",
    "UBSAN",
    "ODEBUG",
    "kmemleak:",
    "refcount_t:",
    "Call Trace:",
    "general protection fault",
    "unable to handle",
    "possible recursive locking",
    "possible circular locking",
    "inconsistent lock state",
    "suspicious RCU usage",
    "scheduling while atomic",
    "sleeping function called",
    "list_add corruption",
    "list_del corruption",
    "unchecked MSR access",
    "blocked for more than",
    "nobody cared",
    "rcu: INFO:",
];

/// Looks for complaints in a kernel's log, of which it is shown each line.
#[derive(Debug, Default)]
pub struct Complaints {
    /// A stack is to be shown that tells of a lack of memory only.
    short: bool,
}

impl Complaints {
    /// Whether a line is one. A kernel that has no memory for a program shows its stack, as does one that has a bug.
    pub fn has(&mut self, line: &str) -> bool {
        if line.contains("vmalloc error: ") || line.contains("page allocation failure: ") {
            self.short = true;
        }
        if line.contains("Call Trace:") && std::mem::take(&mut self.short) {
            return false;
        }
        WORDS.iter().any(|word| line.contains(word))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lack_of_memory_is_no_complaint() {
        let said = |lines: &[&str]| {
            let mut complaints = Complaints::default();
            let complaints = lines.iter().filter(|line| complaints.has(line));
            complaints.map(|line| line.to_string()).collect::<Vec<_>>()
        };
        let short = "a: vmalloc error: size 8, vm_struct allocation failed";
        assert!(said(&[short, "CPU: 0", "Call Trace:"]).is_empty());
        assert_eq!(said(&["CPU: 0", "Call Trace:"]), ["Call Trace:"]);
        let bug = "BUG: KASAN: use-after-free";
        assert_eq!(
            said(&[short, "Call Trace:", bug, "Call Trace:"]),
            [bug, "Call Trace:"]
        );
    }
}
