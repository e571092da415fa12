//! desired × observed → ordered steps with reasons. Pure: no I/O, no clock, no randomness.
//!
//! Invariant: executing a plan and planning again gives the empty plan; so does planning again after a
//! crash behind any prefix of its steps. `diff` prints what [`plan`] returns and `apply` and the
//! controller execute it. Depends on [`crate::manifest`] types and [`crate::oci`] only.
//!
//! In: [`Desired`], merged from every source, and [`Observed`], with what registries and archives
//! answered. Out: [`Plan`]. Inside, references come first (`wants` and `archives` say what is wanted of each,
//! `references` and `tags` plan it) because a container wants the digest its reference resolves to once the
//! plan is done; then `containers`; then the removal of references that nothing uses any more; `order`
//! sorts it all.
//! [`simulation`] says in code what each step means, and the property tests hold the planner to it.

mod archives;
mod containers;
mod diff;
mod namespaces;
mod order;
mod references;
mod registries;
pub mod simulation;
mod tags;
#[cfg(test)]
mod tests;
mod types;
mod wants;

pub use diff::IMAGE_DIGEST;
pub use types::*;

/// The steps that bring the node from `observed` to `desired`, in an order that is safe to execute one
/// after the other, and what could not be planned. Near-linear in the number of resources; what is
/// unchanged costs a comparison.
pub fn plan(desired: &Desired, observed: &Observed) -> Plan {
    let mut draft = order::Draft::default();
    namespaces::plan(desired, observed, &mut draft);
    let registries = registries::plan(desired, observed, &mut draft);
    let mut references = references::References::plan(desired, observed, &registries, &mut draft);
    containers::plan(desired, observed, &mut references, &mut draft);
    references.remove_unwanted(&mut draft);
    draft.finish()
}
