//! Taking typed values out of a table, one key after the other; what nobody took is a mistake.

use super::{Problem, type_name};
use crate::cpumask::{CpuMask, MAX_CPUS};
use crate::ids::CpuId;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The line, from 1 on, that the byte at `offset` is in.
pub(super) fn line_of(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
}

/// A table, and what was taken out of it.
pub(super) struct Reader<'a> {
    text: &'a str,
    /// What the table is, for messages.
    what: &'static str,
    table: &'a DeTable<'a>,
    known: Vec<&'static str>,
}

/// A value with the line it is in.
type Value<'a> = (&'a DeValue<'a>, usize);

impl<'a> Reader<'a> {
    pub(super) fn new(text: &'a str, what: &'static str, table: &'a DeTable<'a>) -> Self {
        Self { text, what, table, known: Vec::new() }
    }

    fn line(&self, value: &Spanned<DeValue<'_>>) -> usize {
        line_of(self.text, value.span().start)
    }

    fn take(&mut self, key: &'static str) -> Option<Value<'a>> {
        self.known.push(key);
        let value = self.table.get(key)?;
        Some((value.get_ref(), self.line(value)))
    }

    /// Refuses keys that nobody took.
    pub(super) fn finish(self) -> Result<(), Problem> {
        match self.table.keys().find(|key| !self.known.contains(&key.get_ref().as_ref())) {
            None => Ok(()),
            Some(key) => Err(Problem {
                line: line_of(self.text, key.span().start),
                what: format!("{} has no `{}`; it has {}", self.what, key.get_ref(), self.known.join(", ")),
            }),
        }
    }

    /// Refuses keys that the others exclude.
    pub(super) fn refuse(&self, keys: &[&str], why: &str) -> Result<(), Problem> {
        match keys.iter().find_map(|key| self.table.get(*key).map(|value| (key, self.line(value)))) {
            None => Ok(()),
            Some((key, line)) => Err(Problem { line, what: format!("`{key}` of {why}") }),
        }
    }

    /// The tables of an array such as `[[domain]]`, with the line that each begins in.
    pub(super) fn tables(&mut self, key: &'static str) -> Result<Vec<(&'a DeTable<'a>, usize)>, Problem> {
        let Some((value, line)) = self.take(key) else { return Ok(Vec::new()) };
        let wrong = || expected(key, "written as `[[...]]`", value, line);
        let array = value.as_array().ok_or_else(wrong)?;
        let entry = |entry: &'a Spanned<DeValue<'a>>| {
            entry.get_ref().as_table().map(|table| (table, self.line(entry))).ok_or_else(wrong)
        };
        array.iter().map(entry).collect()
    }

    /// A string that is not empty.
    pub(super) fn string(&mut self, key: &'static str) -> Result<Option<String>, Problem> {
        let Some((value, line)) = self.take(key) else { return Ok(None) };
        match value.as_str() {
            Some(text) if !text.is_empty() => Ok(Some(text.into())),
            _ => Err(expected(key, "a string that is not empty", value, line)),
        }
    }

    /// A string of less than `most` bytes without a zero byte.
    pub(super) fn text(&mut self, key: &'static str, most: usize) -> Result<Option<String>, Problem> {
        let Some((value, line)) = self.take(key) else { return Ok(None) };
        match value.as_str() {
            Some(text) if text.len() < most && !text.contains('\0') => Ok(Some(text.into())),
            _ => Err(expected(key, &format!("a string of less than {most} bytes"), value, line)),
        }
    }

    /// A name that can stand in a line of a log and on a command line.
    pub(super) fn name(&mut self, key: &'static str) -> Result<Option<String>, Problem> {
        let Some((value, line)) = self.take(key) else { return Ok(None) };
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        match value.as_str() {
            Some(text) if !text.is_empty() && text.len() <= 64 && text.chars().all(allowed) => {
                Ok(Some(text.into()))
            }
            _ => Err(expected(key, "1 to 64 letters, digits, `-`, `_` or `.`", value, line)),
        }
    }

    /// The address of a network interface.
    pub(super) fn mac(&mut self, key: &'static str) -> Result<Option<String>, Problem> {
        let Some((value, line)) = self.take(key) else { return Ok(None) };
        let byte = |part: &str| part.len() == 2 && u8::from_str_radix(part, 16).is_ok();
        let whole = |text: &&str| text.split(':').count() == 6 && text.split(':').all(byte);
        let found = value.as_str().filter(whole).map(|text| Some(text.into()));
        found.ok_or_else(|| expected(key, "an address such as \"00:16:3e:00:00:01\"", value, line))
    }

    pub(super) fn flag(&mut self, key: &'static str) -> Result<Option<bool>, Problem> {
        let Some((value, line)) = self.take(key) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| expected(key, "true or false", value, line))
    }

    pub(super) fn number(
        &mut self,
        key: &'static str,
        least: u64,
        most: u64,
    ) -> Result<Option<u64>, Problem> {
        let Some((value, line)) = self.take(key) else { return Ok(None) };
        let number = integer(value).filter(|number| (least..=most).contains(number));
        number
            .map(Some)
            .ok_or_else(|| expected(key, &format!("an integer from {least} to {most}"), value, line))
    }

    /// One of several words; the first one without any.
    pub(super) fn one_of<T: Copy>(&mut self, key: &'static str, words: &[(&str, T)]) -> Result<T, Problem> {
        let Some((value, line)) = self.take(key) else { return Ok(words[0].1) };
        let found = words.iter().find(|(word, _)| value.as_str() == Some(word));
        let all = || words.iter().map(|(word, _)| format!("\"{word}\"")).collect::<Vec<_>>().join(", ");
        found
            .map(|(_, meaning)| *meaning)
            .ok_or_else(|| expected(key, &format!("one of {}", all()), value, line))
    }

    /// An amount of memory with a unit, in pages.
    pub(super) fn memory(
        &mut self,
        key: &'static str,
        least: u64,
        most: u64,
    ) -> Result<Option<u64>, Problem> {
        let Some((value, line)) = self.take(key) else { return Ok(None) };
        let pages = value.as_str().and_then(pages).filter(|pages| (least..=most).contains(pages));
        let wanted = "an amount such as \"256M\" or \"2G\", at least 1M";
        pages.map(Some).ok_or_else(|| expected(key, wanted, value, line))
    }

    /// A list of strings, each with its line.
    pub(super) fn strings(
        &mut self,
        key: &'static str,
        wanted: &str,
    ) -> Result<Vec<(&'a str, usize)>, Problem> {
        let mut strings = Vec::new();
        for (value, line) in self.list(key, wanted)? {
            strings.push((value.as_str().ok_or_else(|| expected(key, wanted, value, line))?, line));
        }
        Ok(strings)
    }

    fn list(&mut self, key: &'static str, wanted: &str) -> Result<Vec<Value<'a>>, Problem> {
        let Some((value, line)) = self.take(key) else { return Ok(Vec::new()) };
        let array = value.as_array().ok_or_else(|| expected(key, wanted, value, line))?;
        Ok(array.iter().map(|entry| (entry.get_ref(), self.line(entry))).collect())
    }

    /// A list of numbers.
    pub(super) fn numbers(&mut self, key: &'static str, most: u64) -> Result<Vec<u64>, Problem> {
        let wanted = "a list of integers";
        let number = |(value, line)| {
            integer(value).filter(|n| *n <= most).ok_or_else(|| expected(key, wanted, value, line))
        };
        self.list(key, wanted)?.into_iter().map(number).collect()
    }

    /// A list of ranges up to `most`, both ends included, whose ends are those of units of `unit`; counted in units.
    pub(super) fn ranges(
        &mut self,
        key: &'static str,
        most: u64,
        unit: u64,
    ) -> Result<Vec<(u64, u64)>, Problem> {
        let wanted = match unit {
            1 => "a list of ranges such as \"0x3f8-0x3ff\"".to_string(),
            _ => format!("a list of ranges of whole pages of {unit} bytes such as \"0xfebf0000-0xfebf0fff\""),
        };
        let range = |(text, line): (&str, usize)| {
            let found = range(text).filter(|(first, last)| {
                *last <= most && first % unit == 0 && last.wrapping_add(1).is_multiple_of(unit)
            });
            let what = || format!("`{key}` is {wanted}, not \"{text}\"");
            found
                .map(|(first, last)| (first / unit, last / unit))
                .ok_or_else(|| Problem { line, what: what() })
        };
        self.strings(key, &wanted)?.into_iter().map(range).collect()
    }

    /// A set of CPUs.
    pub(super) fn cpus(&mut self, key: &'static str) -> Result<Option<CpuMask>, Problem> {
        let Some((value, line)) = self.take(key) else { return Ok(None) };
        let wanted = "CPU numbers and ranges such as \"0-1,3\"";
        value.as_str().and_then(cpus).map(Some).ok_or_else(|| expected(key, wanted, value, line))
    }
}

fn expected(key: &str, wanted: &str, value: &DeValue<'_>, line: usize) -> Problem {
    let is = match value {
        DeValue::String(text) => format!("\"{text}\""),
        DeValue::Integer(number) => number.to_string(),
        other => type_name(other).into(),
    };
    Problem { line, what: format!("`{key}` is {wanted}, not {is}") }
}

fn integer(value: &DeValue<'_>) -> Option<u64> {
    let integer = value.as_integer()?;
    u64::from_str_radix(integer.as_str(), integer.radix()).ok()
}

fn number(text: &str) -> Option<u64> {
    let text = text.trim();
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

/// A range such as `0x60-0x64`, or a single number.
fn range(text: &str) -> Option<(u64, u64)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (number(first)?, number(last)?);
    (first <= last).then_some((first, last))
}

fn pages(text: &str) -> Option<u64> {
    let (digits, shift) = match text.split_at_checked(text.len().checked_sub(1)?)? {
        (digits, "K") => (digits, 10),
        (digits, "M") => (digits, 20),
        (digits, "G") => (digits, 30),
        _ => return None,
    };
    let bytes = digits.parse::<u64>().ok()?.checked_mul(1 << shift)?;
    bytes.is_multiple_of(4096).then_some(bytes / 4096)
}

fn cpus(text: &str) -> Option<CpuMask> {
    let mut mask = CpuMask::EMPTY;
    for part in text.split(',') {
        let (first, last) = range(part).filter(|(_, last)| *last < MAX_CPUS as u64)?;
        (first..=last).for_each(|cpu| mask.insert(CpuId(cpu as u32)));
    }
    Some(mask)
}
