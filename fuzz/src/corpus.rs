// SPDX-License-Identifier: GPL-2.0

//! The corpus in the repository: for each target a text file with an input a line, in hexadecimal digits. libFuzzer
//! wants a folder with a file for each input; `pack` and `unpack` go from one to the other.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

/// The inputs of a packed corpus.
pub fn parse(text: &str) -> Vec<Vec<u8>> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(bytes).collect()
}

fn bytes(line: &str) -> Vec<u8> {
    let digit = |c: char| c.to_digit(16).expect("a corpus line is hexadecimal digits") as u8;
    let digits: Vec<u8> = line.chars().map(digit).collect();
    digits
        .chunks(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect()
}

/// The line of an input.
pub fn line(input: &[u8]) -> String {
    let digit = |n: u8| char::from_digit(n.into(), 16).unwrap_or('0');
    input
        .iter()
        .flat_map(|b| [digit(b >> 4), digit(b & 15)])
        .collect()
}

/// Writes each input of `text` into a file of its own in `folder`.
pub fn unpack(text: &str, folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    for (n, input) in parse(text).iter().enumerate() {
        fs::write(folder.join(format!("corpus-{n:04}")), input)?;
    }
    Ok(())
}

/// The packed form of the files in `folder`, short inputs first.
pub fn pack(folder: &Path) -> io::Result<String> {
    let mut inputs = BTreeSet::new();
    for entry in fs::read_dir(folder)? {
        let input = fs::read(entry?.path())?;
        inputs.insert((input.len(), input));
    }
    let mut text =
        String::from("# SPDX-License-Identifier: GPL-2.0\n# Written by scripts/fuzz --keep.\n");
    for (_, input) in inputs {
        text += &line(&input);
        text.push('\n');
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_corpus_comes_back_as_it_was() {
        let folder = std::env::temp_dir().join(format!("rkvm-corpus-{}", std::process::id()));
        let text = "# a comment\n00ff\n0123456789abcdef\n";
        unpack(text, &folder).unwrap();
        let again = pack(&folder).unwrap();
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!(
            parse(&again),
            [
                vec![0, 0xff],
                vec![1, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef]
            ]
        );
    }
}
