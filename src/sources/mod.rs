//! Queues that backends push into, and the RESP door: how an item is taken, read and given back.
//! Called by the queue actors. Knows drafts, but neither rooms nor sessions.
