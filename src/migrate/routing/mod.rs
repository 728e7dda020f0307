//! Routing copies: other servers on which a sharded table exists too, as a partitioned table that leads to the same
//! shards, for clients that connect there. They switch together with the table here, or not at all.
//!
//! **What a copy is.** A node that was added with the name of the foreign server by which it leads back here
//! (`repart_add_node(…, coordinator => …)`), and on it a table of the same name and columns, partitioned like the one
//! here. What is a local shard here is there a foreign table of that server; what is on another node, one of the foreign
//! server that has the same name there as here; what is on the copy's own node, a partition like any other. Whether a
//! server leads where it should is proven, not believed: a session of ours is looked for through it ([`servers`]).
//!
//! **How it switches** ([`switch`]). Nothing is decided on a copy. In the order in which clients of a copy take locks:
//! 1. The session there begins a transaction, compares the partitions there with those here, and works out what to do.
//! 2. It takes `ACCESS EXCLUSIVE` on the table there, politely, *before anything is locked here*, and exchanges the
//!    partitions (a shard that comes to the copy's own node is still written there, and attached in step 4). A client of a copy holds that table while it waits for a shard: asked for in the other order, the two
//!    would wait for each other under every load. From here on nobody uses the copy, and whoever used it has
//!    committed on the servers of the shards too, since postgres_fdw does so before it releases its locks. So nothing
//!    that was routed by the old map can arrive later, and what was, has been captured at the shard.
//! 3. The switch here does its work.
//! 4. Each copy prepares its transaction, under a name of ours; the rows that say so (`repart.two_phase`) commit with the
//!    switch, which is the decision.
//! 5. `COMMIT PREPARED` on each, by the mover at once, or by the watcher, however late. Until then clients of that copy
//!    wait: the locks of a prepared transaction survive a crash there. So nobody can use the old map any more, and the old
//!    shards can be dropped; but the table is not switched again.
//!
//! Where a shard leaves the copy's own node, the transaction that hides its table there and the one that takes it out of
//! the copy are one and the same: that of the source's session ([`Handover`]).
//!
//! A copy that does not answer before step 4 makes the switch give way and be tried again; nothing was done. Its server
//! ends our session by itself after a while, so that its clients do not wait for a coordinator that is cut off. One that is
//! lost after that has a prepared transaction, which survives and is finished as decided.
//!
//! **What else could hide rows.** A partition that somebody adds here by hand is unknown to the copies: a transaction that
//! changes partitions commits only if they lead to what the table is made of then (`repart.require_same_maps`, in
//! `sql/routes.sql`). A copy is known by its name there, so that none is left behind under an old one; and it goes with its
//! table ([`tidy`]).
//!
//! **A table without a key** is copied under locks, for which the copies are locked from the beginning: a writer of a copy
//! that waits for the shard would hold the copy for which the exchange would wait.
//!
//! **Old snapshots.** A statement on a copy takes its snapshot on the server of a shard when it first uses that server,
//! which may be before the shard came to be there. Here the guard refuses such a statement; on a copy too, which is why
//! repart must be preloaded there: the exchange there notes the new partitions in `repart.cutovers` of that server
//! (`repart_note_switch`).

mod add;
mod map;
mod orphans;
mod preflight;
mod rights;
pub mod switch;
mod table;

pub use add::{add, drop};
pub use orphans::tidy;
pub use preflight::check;
pub use switch::{Handover, Sessions};
