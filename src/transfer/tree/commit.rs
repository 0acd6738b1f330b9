//! A directory that is complete gets its name, or joins the one that has it.

use crate::error::{Error, ErrorCode, Result};
use crate::transfer::dir::{Dir, Found};
use crate::transfer::names::Name;
use crate::transfer::part::exists;
use crate::transfer::tree::stage::Closed;

/// Moves everything from `part` to `name`, both in `parent`; whether `parent` is
/// all that was changed by that.
pub(crate) fn commit(parent: &Dir, part: &Name, name: &Name, overwrite: bool) -> Result<bool> {
    match parent.find(name)? {
        Found::Nothing => {
            let moved = parent.rename(part, parent, name, false);
            return moved.map(|()| true).map_err(|e| exists(name, e));
        }
        Found::Directory => {}
        _ => return Err(in_place_of_directory(name)),
    }
    merge(&parent.open_dir(part)?, &parent.open_dir(name)?, overwrite)?;
    parent.remove_all(part)?;
    Ok(false)
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
pub(crate) fn close(root: &Dir, closed: &Closed) -> Result<()> {
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
