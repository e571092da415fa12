//! References resolved, blobs fetched or imported into the content store (an OCI image layout).
//!
//! Invariant: a blob has its name only after its digest matched and its bytes are durable; each blob is
//! fetched once however many images want it. References and archives flow in, descriptors and blobs out.
//! Knows nothing of namespaces, containers or manifests; depends on [`crate::oci`] only.
