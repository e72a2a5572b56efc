// SPDX-License-Identifier: GPL-2.0

//! Writes the "newc" cpio format, the one the kernel unpacks an initramfs from.

use std::io;
use std::io::Write;

/// What an entry of the archive is.
pub enum Node<'a> {
    /// A folder.
    Dir,
    /// A regular file with its contents.
    File(&'a [u8]),
    /// A symbolic link with its target.
    Symlink(&'a str),
    /// A character device with its major and minor number.
    Char(u32, u32),
}

/// An archive being written to `out`.
pub struct Archive<W: Write> {
    out: W,
    inode: u32,
}

impl<W: Write> Archive<W> {
    /// Starts an archive.
    pub fn new(out: W) -> Self {
        Archive { out, inode: 1 }
    }

    /// Adds one entry. `name` has no leading slash; `mode` holds the permission bits only.
    pub fn add(&mut self, name: &str, mode: u32, node: &Node<'_>) -> io::Result<()> {
        let (kind, data, rdev): (u32, &[u8], (u32, u32)) = match node {
            Node::Dir => (0o040_000, &[], (0, 0)),
            Node::File(data) => (0o100_000, data, (0, 0)),
            Node::Symlink(target) => (0o120_000, target.as_bytes(), (0, 0)),
            Node::Char(major, minor) => (0o020_000, &[], (*major, *minor)),
        };
        let inode = self.inode;
        self.inode += 1;
        self.entry(inode, kind | mode, rdev, name, data)
    }

    /// Closes the archive and gives the writer back.
    pub fn finish(mut self) -> io::Result<W> {
        self.entry(0, 0, (0, 0), "TRAILER!!!", &[])?;
        Ok(self.out)
    }

    fn entry(
        &mut self,
        inode: u32,
        mode: u32,
        rdev: (u32, u32),
        name: &str,
        data: &[u8],
    ) -> io::Result<()> {
        let size = u32::try_from(data.len())
            .map_err(|_| io::Error::other(format!("{name}: larger than the cpio format allows")))?;
        let fields = [
            inode,
            mode,
            0,
            0,
            1,
            0,
            size,
            0,
            0,
            rdev.0,
            rdev.1,
            name.len() as u32 + 1,
            0,
        ];
        let mut header = String::from("070701");
        for field in fields {
            header.push_str(&format!("{field:08x}"));
        }
        self.out.write_all(header.as_bytes())?;
        self.out.write_all(name.as_bytes())?;
        self.out.write_all(&[0])?;
        pad(&mut self.out, header.len() + name.len() + 1)?;
        self.out.write_all(data)?;
        pad(&mut self.out, data.len())
    }
}

/// Fills up to the next multiple of four bytes.
fn pad<W: Write>(out: &mut W, length: usize) -> io::Result<()> {
    out.write_all(&[0u8; 3][..(4 - length % 4) % 4])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_aligned_and_the_trailer_closes() {
        let mut archive = Archive::new(Vec::new());
        archive.add("a", 0o755, &Node::Dir).unwrap();
        archive.add("a/bc", 0o644, &Node::File(b"hello")).unwrap();
        archive.add("a/l", 0o777, &Node::Symlink("bc")).unwrap();
        let bytes = archive.finish().unwrap();
        assert_eq!(bytes.len() % 4, 0);
        let headers: Vec<usize> = (0..bytes.len() - 6)
            .filter(|&i| &bytes[i..i + 6] == b"070701")
            .collect();
        assert_eq!(headers.len(), 4);
        assert!(headers.iter().all(|at| at % 4 == 0));
        assert!(bytes.windows(10).any(|w| w == b"TRAILER!!!"));
    }

    #[test]
    fn sizes_and_modes_are_in_the_header() {
        let mut archive = Archive::new(Vec::new());
        archive.add("f", 0o600, &Node::File(b"12345")).unwrap();
        let bytes = archive.finish().unwrap();
        assert_eq!(&bytes[14..22], b"00008180");
        assert_eq!(&bytes[54..62], b"00000005");
    }
}
