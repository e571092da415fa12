//! Where what comes goes, by what is there: the rules of podman's and docker's `cp`. Pure.

/// What the destination is now; links are followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum There {
    /// Nothing.
    Nothing,
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// A device, a pipe, a socket.
    Other,
}

/// Where the first entry of the stream goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Into the destination, under its own name.
    Into,
    /// To the destination itself, whose parent must be there.
    As,
    /// Over the file that the destination is.
    Over,
}

/// Decides. `directory`: a directory comes; `slash`: the destination was written with a slash at its end.
pub fn place(directory: bool, there: There, slash: bool) -> Result<Place, &'static str> {
    match (directory, there) {
        (_, There::Directory) => Ok(Place::Into),
        (true, There::Nothing) => Ok(Place::As),
        (false, There::Nothing) if slash => Err("is no directory: it is not there"),
        (false, There::Nothing) => Ok(Place::As),
        (_, There::File | There::Other) if slash => Err("is no directory"),
        (true, There::File | There::Other) => Err("is no directory, and a directory cannot be copied over it"),
        (false, There::File) => Ok(Place::Over),
        (false, There::Other) => Err("is neither a file nor a directory"),
    }
}
