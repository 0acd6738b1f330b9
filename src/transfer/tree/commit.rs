//! A directory that is complete gets its name, or joins the one that has it.

use crate::error::{Error, ErrorCode, Result};
use crate::transfer::dir::{Dir, Found};
use crate::transfer::names::Name;
use crate::transfer::part::exists;
use crate::transfer::tree::stage::Closed;

/// Gives what was put together in `parent` its name there, on the disk but for the names
/// in `parent` itself. Or moves all of it into the directory that has the name.
pub(crate) fn commit(parent: &Dir, name: &Name, closed: &Closed, overwrite: bool) -> Result<()> {
    let part = name.part();
    let root = parent.open_dir(&part)?;
    match parent.find(name)? {
        Found::Nothing => {
            // Before it has the name: there is nothing to do to it once it has.
            close(&root, closed)?;
            root.sync_all()?;
            parent.rename(&part, parent, name, false).map_err(|e| exists(name, e))
        }
        Found::Directory => {
            let target = parent.open_dir(name)?;
            root.sync_all()?;
            merge(&root, &target, overwrite)?;
            parent.remove_all(&part)?;
            // What even its owner may not change could not be moved.
            close(&target, closed)?;
            Ok(target.sync_all()?)
        }
        _ => Err(in_place_of_directory(name)),
    }
}

/// Moves what is in one directory into another, which keeps its permissions and its
/// time unless those may be replaced as well.
fn merge(from: &Dir, to: &Dir, overwrite: bool) -> Result<()> {
    let meta = from.look()?.meta();
    for name in from.names()? {
        match (from.find(&name)?, to.find(&name)?) {
            (Found::Directory, Found::Directory) => {
                merge(&from.open_dir(&name)?, &to.open_dir(&name)?, overwrite)?;
                from.remove_dir(&name)?;
            }
            (Found::Directory, Found::Nothing) => from.rename(&name, to, &name, false)?,
            (Found::Directory, _) => return Err(in_place_of_directory(&name)),
            (_, Found::Directory | Found::Special) => {
                let what = format!("{name} is there already, and is no file");
                return Err(Error::new(ErrorCode::FileExists, what)
                    .advise("move it away, or receive into another directory"));
            }
            _ => from.rename(&name, to, &name, overwrite).map_err(|e| exists(&name, e))?,
        }
    }
    if overwrite {
        meta.put_on(&to.as_file()?)?;
    }
    Ok(())
}

/// Gives directories that their owner may not change the permissions for it.
fn close(root: &Dir, closed: &Closed) -> Result<()> {
    'closed: for (names, meta) in closed.iter() {
        let mut dir = root.try_clone()?;
        for name in names {
            dir = match dir.open_dir(name) {
                Ok(dir) => dir,
                // Inside another that is closed already.
                Err(_) => continue 'closed,
            };
        }
        meta.put_on(&dir.as_file()?)?;
    }
    Ok(())
}

pub(crate) fn in_place_of_directory(name: &Name) -> Error {
    let what = format!("{name} is there already, and is no directory");
    Error::new(ErrorCode::FileExists, what)
        .advise("move it away, or receive into another directory")
}
