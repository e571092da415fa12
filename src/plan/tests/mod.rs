//! The planner's promises: [`rules`] one by one on small nodes, [`properties`] on random ones.

mod properties;
mod rules;
mod world;
