//! The planner's promises: its rules one by one on small nodes, its properties on random ones.

mod arbitrary;
mod container_rules;
mod image_rules;
mod properties;
mod registry_rules;
mod rules;
mod world;
