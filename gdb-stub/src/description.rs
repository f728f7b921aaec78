//! The target description and the thread list, as XML read in pieces by `qXfer`.
//!
//! Both are printed anew for each piece into a [`Window`] that keeps only the bytes
//! asked for, so neither takes memory. The description is short on purpose, for it
//! is sent at each connect over a line of 11,520 bytes a second:
//!
//! - The document's own DTD subset gives `bitsize` a default of 64. A register with
//!   a named type takes its size from the type.
//! - Types that this file defines have one-letter names.

use core::fmt::{self, Write};

use crate::activity::write_activity;
use crate::arch::{Feature, Kind, REGISTERS};
use crate::machine::{CpuIndex, Machine};
use crate::target::{stopped_first, thread_id};

/// A writer that keeps the bytes from `offset` on, as many as its buffer holds.
pub struct Window<'a> {
    skip: usize,
    buffer: &'a mut [u8],
    length: usize,
    overflowed: bool,
}

impl<'a> Window<'a> {
    /// Keeps what is written from byte `offset` on.
    pub fn new(offset: usize, buffer: &'a mut [u8]) -> Self {
        Self {
            skip: offset,
            buffer,
            length: 0,
            overflowed: false,
        }
    }

    /// How many bytes were kept.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether more was written than the buffer took.
    pub fn has_more(&self) -> bool {
        self.overflowed
    }
}

impl Write for Window<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let skipped = self.skip.min(text.len());
        self.skip -= skipped;
        for &byte in &text.as_bytes()[skipped..] {
            match self.buffer.get_mut(self.length) {
                Some(slot) => {
                    *slot = byte;
                    self.length += 1;
                }
                None => {
                    self.overflowed = true;
                    break;
                }
            }
        }
        Ok(())
    }
}

/// The EFLAGS bits that GDB shows by name, and their positions: those that a kernel's
/// debugging turns on. Each costs 38 bytes at each connect.
///
/// Intel SDM, order number 325462-081US, September 2023, volume 1, section 3.4.3
/// "EFLAGS Register".
const FLAGS: [(&str, u32); 9] = [
    ("CF", 0),
    ("PF", 2),
    ("ZF", 6),
    ("SF", 7),
    ("TF", 8),
    ("IF", 9),
    ("DF", 10),
    ("OF", 11),
    ("AC", 18),
];

/// Prints the target description.
pub fn write_target_xml(out: &mut dyn Write) -> fmt::Result {
    out.write_str(concat!(
        "<!DOCTYPE target [<!ATTLIST reg bitsize CDATA \"64\">]>",
        "<target><architecture>i386:x86-64</architecture>",
    ))?;
    let mut open = None;
    for register in &REGISTERS {
        if open != Some(register.feature) {
            if open.is_some() {
                out.write_str("</feature>")?;
            }
            open = Some(register.feature);
            write_feature_start(register.feature, out)?;
        }
        write!(out, "<reg name=\"{}\"", register.name)?;
        match register.kind {
            Kind::Integer if register.size == 8 => {}
            Kind::Integer => write!(out, " bitsize=\"{}\"", register.size * 8)?,
            Kind::Code => out.write_str(" type=\"code_ptr\"")?,
            Kind::Data => out.write_str(" type=\"data_ptr\"")?,
            Kind::Flags => out.write_str(" type=\"f\"")?,
            Kind::X87 => out.write_str(" type=\"i387_ext\"")?,
            Kind::Vector => out.write_str(" type=\"v\"")?,
        }
        out.write_str("/>")?;
    }
    out.write_str("</feature></target>")
}

fn write_feature_start(feature: Feature, out: &mut dyn Write) -> fmt::Result {
    match feature {
        Feature::Core => {
            out.write_str("<feature name=\"org.gnu.gdb.i386.core\"><flags id=\"f\" size=\"4\">")?;
            for (name, bit) in FLAGS {
                write!(
                    out,
                    "<field name=\"{name}\" start=\"{bit}\" end=\"{bit}\"/>"
                )?;
            }
            out.write_str("</flags>")
        }
        Feature::Sse => out.write_str(concat!(
            "<feature name=\"org.gnu.gdb.i386.sse\">",
            "<vector id=\"a\" type=\"ieee_single\" count=\"4\"/>",
            "<vector id=\"b\" type=\"int64\" count=\"2\"/>",
            "<union id=\"v\"><field name=\"v4_float\" type=\"a\"/>",
            "<field name=\"v2_int64\" type=\"b\"/></union>",
        )),
        Feature::Vmx => out.write_str("<feature name=\"org.stillpoint.vmx\">"),
    }
}

/// Prints the list of CPUs as threads, with a name and what each was doing.
pub fn write_threads_xml<M: Machine>(
    machine: &M,
    stopped: CpuIndex,
    out: &mut dyn Write,
) -> fmt::Result {
    out.write_str("<threads>")?;
    for cpu in stopped_first(stopped, machine.cpu_count()) {
        let id = thread_id(cpu);
        write!(out, "<thread id=\"{id:x}\" name=\"cpu{cpu}\">")?;
        write_activity(machine, cpu, &mut Escaped(out))?;
        out.write_str("</thread>")?;
    }
    out.write_str("</threads>")
}

/// Text between tags: symbols of the hypervisor's may have `<` in them.
struct Escaped<'a>(&'a mut dyn Write);

impl Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            match character {
                '<' => self.0.write_str("&lt;")?,
                '>' => self.0.write_str("&gt;")?,
                '&' => self.0.write_str("&amp;")?,
                other => self.0.write_char(other)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::string::String;

    use super::*;

    fn whole() -> String {
        let mut xml = String::new();
        write_target_xml(&mut xml).unwrap();
        xml
    }

    #[test]
    fn each_register_is_declared_once_in_order() {
        let xml = whole();
        let mut rest = xml.as_str();
        for register in &REGISTERS {
            let start = rest.find("<reg name=\"").unwrap() + "<reg name=\"".len();
            rest = &rest[start..];
            assert!(
                rest.starts_with(&std::format!("{}\"", register.name)),
                "{rest}"
            );
        }
        assert!(!rest.contains("<reg "));
        assert_eq!(
            xml.matches("<feature").count(),
            xml.matches("</feature>").count()
        );
    }

    #[test]
    fn text_between_tags_is_escaped() {
        let mut text = String::new();
        Escaped(&mut text).write_str("<T as U>::f & g").unwrap();
        assert_eq!(text, "&lt;T as U&gt;::f &amp; g");
    }

    #[test]
    fn pieces_make_the_whole() {
        let xml = whole();
        for size in [1, 7, 100, xml.len() - 1, xml.len(), xml.len() + 1] {
            let mut joined = String::new();
            loop {
                let mut buffer = std::vec![0; size];
                let mut window = Window::new(joined.len(), &mut buffer);
                write_target_xml(&mut window).unwrap();
                let (length, more) = (window.len(), window.has_more());
                joined.push_str(std::str::from_utf8(&buffer[..length]).unwrap());
                if !more {
                    break;
                }
            }
            assert_eq!(joined, xml, "in pieces of {size}");
        }
    }
}
