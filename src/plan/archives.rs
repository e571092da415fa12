//! Images that come from archives: which references an archive gives, and what keeps them from it.

use super::wants::{Want, Wants};
use super::{ArchivedImage, Declared, Observed, Problem, ReferenceRole, Severity};
use crate::manifest::{HANDLE, ImageSpec, Resource, Spec};
use crate::oci::Reference;

/// Adds what this `Image` wants of its archive at `path`.
pub(super) fn want<'a>(
    declared: &'a Declared,
    spec: &'a ImageSpec,
    path: &'a str,
    observed: &'a Observed,
    wants: &mut Wants<'a>,
) {
    let images = match observed.archives.get(path) {
        Some(Ok(images)) => images,
        Some(Err(error)) => return unreadable(declared, spec, path, error, observed, wants),
        None => return unreadable(declared, spec, path, "it has not been read", observed, wants),
    };
    match &spec.reference {
        Some(reference) => match choose(images, reference) {
            Ok(image) => {
                let want = Want::Import { declared, resource: None, archive: path, digest: &image.digest };
                claim_import(declared, reference, want, wants);
            }
            Err(why) => {
                let help = "set spec.reference to the name of one of its images, or leave it out for all of them";
                wants.problems.push(problem(declared, format!("archive {path} {why}"), Some(help.into())));
                // What was imported before stays: a wrong archive is no reason to remove it.
                wants.claim((&declared.resource.metadata.namespace, reference), Want::Keep { declared });
            }
        },
        None => {
            let unnamed = images.iter().filter(|image| image.reference.is_none()).count();
            if images.is_empty() {
                wants.problems.push(problem(declared, format!("archive {path} holds no image"), None));
                protect(declared, observed, wants);
            } else if unnamed > 0 {
                let what = match (unnamed, images.len()) {
                    (1, 1) => format!("archive {path} does not name its image"),
                    (n, of) => format!("archive {path} does not name {n} of its {of} images"),
                };
                let help = "name it in the manifest with spec.reference";
                wants.problems.push(problem(declared, what, Some(help.into())));
                protect(declared, observed, wants);
            }
            for image in images {
                let Some(reference) = &image.reference else { continue };
                let resource = Some(Box::new(named(&declared.resource, spec, reference)));
                let want = Want::Import { declared, resource, archive: path, digest: &image.digest };
                claim_import(declared, reference, want, wants);
            }
        }
    }
}

/// Takes the reference, unless it pins another digest than the archive has.
fn claim_import<'a>(declared: &'a Declared, reference: &'a Reference, want: Want<'a>, wants: &mut Wants<'a>) {
    let name = (declared.resource.metadata.namespace.as_str(), reference);
    if let (Some(pinned), Want::Import { digest, archive, .. }) = (reference.digest(), &want)
        && pinned != *digest
    {
        let what = format!("archive {archive} holds {digest} where {reference} is wanted");
        wants.problems.push(problem(declared, what, None));
        return wants.claim(name, Want::Keep { declared });
    }
    wants.claim(name, want);
}

/// The one image that `reference` means: the one of that name, or the only one.
fn choose<'a>(images: &'a [ArchivedImage], reference: &Reference) -> Result<&'a ArchivedImage, String> {
    let mut same = images.iter().filter(|image| image.reference.as_ref() == Some(reference));
    match (same.next(), same.next(), images) {
        (Some(image), None, _) => Ok(image),
        (Some(image), Some(other), _) if image.digest == other.digest => Ok(image),
        (Some(_), Some(_), _) => Err(format!("holds several images named {reference}")),
        (None, _, [image]) => Ok(image),
        (None, _, []) => Err("holds no image".into()),
        (None, _, images) => Err(format!("holds {} images and none is named {reference}", images.len())),
    }
}

/// The `Image` for one image of an archive that names its images itself.
fn named(resource: &Resource, spec: &ImageSpec, reference: &Reference) -> Resource {
    let mut metadata = resource.metadata.clone();
    let handle = std::mem::replace(&mut metadata.name, reference.to_string());
    metadata.annotations.insert(HANDLE.into(), handle);
    Resource { metadata, spec: Spec::Image(ImageSpec { reference: Some(reference.clone()), ..spec.clone() }) }
}

/// Reports the archive. What it gave before stays on the node, and then it is only a warning.
fn unreadable<'a>(
    declared: &'a Declared,
    spec: &'a ImageSpec,
    path: &str,
    error: &str,
    observed: &'a Observed,
    wants: &mut Wants<'a>,
) {
    let namespace = declared.resource.metadata.namespace.as_str();
    let here = match &spec.reference {
        Some(reference) => {
            wants.claim((namespace, reference), Want::Keep { declared });
            wants.seen.contains_key(&(namespace, reference))
        }
        None => protect(declared, observed, wants),
    };
    let mut problem = problem(declared, format!("archive {path} cannot be used: {error}"), None);
    if here {
        problem.severity = Severity::Warning;
        problem.help = Some("what was imported before is kept".into());
    }
    wants.problems.push(problem);
}

/// Keeps the references that this `Image` gave before, unless somebody else wants them. True if there are any.
fn protect<'a>(declared: &'a Declared, observed: &'a Observed, wants: &mut Wants<'a>) -> bool {
    let metadata = &declared.resource.metadata;
    let mut any = false;
    for ((namespace, reference), seen) in &observed.references {
        let ours = *namespace == metadata.namespace
            && seen.role == ReferenceRole::Image
            && seen.annotations.get(HANDLE) == Some(&metadata.name);
        if ours {
            wants.protected.push(((namespace, reference), declared));
            any = true;
        }
    }
    any
}

fn problem(declared: &Declared, what: String, help: Option<String>) -> Problem {
    let place = declared.place_of("spec.archive");
    let key = declared.resource.key();
    Problem { message: format!("{key}: {what}"), key, place, help, severity: Severity::Error }
}
