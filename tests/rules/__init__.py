"""The architecture's rules, executable: each test is one rule, and each rule is shown to bite."""
