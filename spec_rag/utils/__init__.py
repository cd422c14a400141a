"""Files, locks, caches, cancellation and progress; imports no other package of spec_rag."""
