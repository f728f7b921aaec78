//! Checks on the guest's segment registers: Intel SDM, vol. 3, section 27.3.1.2.

use super::{CR0_PE, Checker, RFLAGS_VM, Rule};
use crate::{AccessRights, Field, VmcsError};

/// The four fields of a segment register.
struct SegmentFields {
    selector: Field,
    base: Field,
    limit: Field,
    rights: Field,
}

macro_rules! segment_fields {
    ($selector:ident, $base:ident, $limit:ident, $rights:ident) => {
        SegmentFields {
            selector: Field::$selector,
            base: Field::$base,
            limit: Field::$limit,
            rights: Field::$rights,
        }
    };
}

#[rustfmt::skip]
const CS: SegmentFields = segment_fields!(
    GUEST_CS_SELECTOR, GUEST_CS_BASE, GUEST_CS_LIMIT, GUEST_CS_ACCESS_RIGHTS);
#[rustfmt::skip]
const SS: SegmentFields = segment_fields!(
    GUEST_SS_SELECTOR, GUEST_SS_BASE, GUEST_SS_LIMIT, GUEST_SS_ACCESS_RIGHTS);
#[rustfmt::skip]
const DS: SegmentFields = segment_fields!(
    GUEST_DS_SELECTOR, GUEST_DS_BASE, GUEST_DS_LIMIT, GUEST_DS_ACCESS_RIGHTS);
#[rustfmt::skip]
const ES: SegmentFields = segment_fields!(
    GUEST_ES_SELECTOR, GUEST_ES_BASE, GUEST_ES_LIMIT, GUEST_ES_ACCESS_RIGHTS);
#[rustfmt::skip]
const FS: SegmentFields = segment_fields!(
    GUEST_FS_SELECTOR, GUEST_FS_BASE, GUEST_FS_LIMIT, GUEST_FS_ACCESS_RIGHTS);
#[rustfmt::skip]
const GS: SegmentFields = segment_fields!(
    GUEST_GS_SELECTOR, GUEST_GS_BASE, GUEST_GS_LIMIT, GUEST_GS_ACCESS_RIGHTS);
#[rustfmt::skip]
const LDTR: SegmentFields = segment_fields!(
    GUEST_LDTR_SELECTOR, GUEST_LDTR_BASE, GUEST_LDTR_LIMIT, GUEST_LDTR_ACCESS_RIGHTS);
#[rustfmt::skip]
const TR: SegmentFields = segment_fields!(
    GUEST_TR_SELECTOR, GUEST_TR_BASE, GUEST_TR_LIMIT, GUEST_TR_ACCESS_RIGHTS);

/// The values of a segment register, with the fields that they were read from.
struct Segment {
    fields: &'static SegmentFields,
    selector: u64,
    base: u64,
    limit: u64,
    rights: AccessRights,
}

impl Segment {
    fn rpl(&self) -> u8 {
        (self.selector & 3) as u8
    }

    fn usable(&self) -> bool {
        !self.rights.unusable()
    }

    /// Requires that `holds`, blaming the access rights.
    fn require_rights(&self, c: &mut Checker<'_>, holds: bool, rule: Rule) {
        c.require(holds, rule, self.fields.rights, self.rights.raw());
    }

    fn require_base(&self, c: &mut Checker<'_>, holds: bool, rule: Rule) {
        c.require(holds, rule, self.fields.base, self.base);
    }

    fn require_selector(&self, c: &mut Checker<'_>, holds: bool, rule: Rule) {
        c.require(holds, rule, self.fields.selector, self.selector);
    }

    /// The rules for the rights that hold for every usable segment register.
    fn require_form(&self, c: &mut Checker<'_>) {
        let rights = self.rights;
        self.require_rights(c, rights.present(), Rule::SegmentPresent);
        c.require_no_bits(
            rights.reserved(),
            Rule::RightsReserved,
            self.fields.rights,
            rights.raw(),
        );
        let small = self.limit & 0xfff == 0xfff || !rights.g();
        let large = self.limit & 0xfff0_0000 == 0 || rights.g();
        self.require_rights(c, small && large, Rule::LimitGranularity);
    }
}

impl Checker<'_> {
    fn segment(&mut self, fields: &'static SegmentFields) -> Result<Segment, VmcsError> {
        Ok(Segment {
            fields,
            selector: self.get(fields.selector)?,
            base: self.get(fields.base)?,
            limit: self.get(fields.limit)?,
            rights: AccessRights::from_raw(self.get32(fields.rights)?),
        })
    }
}

pub(super) fn check(c: &mut Checker<'_>) -> Result<(), VmcsError> {
    let cs = c.segment(&CS)?;
    let ss = c.segment(&SS)?;
    let data = [
        c.segment(&DS)?,
        c.segment(&ES)?,
        c.segment(&FS)?,
        c.segment(&GS)?,
    ];
    let virtual_8086 = c.get(Field::GUEST_RFLAGS)? & RFLAGS_VM != 0;
    if virtual_8086 {
        for segment in [&cs, &ss].into_iter().chain(&data) {
            virtual_8086_segment(c, segment);
        }
    } else {
        code_segment(c, &cs, &ss);
        stack_segment(c, &cs, &ss)?;
        for segment in &data {
            data_segment(c, segment);
        }
    }
    bases(c, &cs, &ss, &data);
    task_register(c)?;
    local_descriptor_table(c)
}

fn virtual_8086_segment(c: &mut Checker<'_>, segment: &Segment) {
    let base = segment.selector << 4;
    segment.require_base(c, segment.base == base, Rule::Virtual8086Base);
    c.require(
        segment.limit == 0xffff,
        Rule::Virtual8086Limit,
        segment.fields.limit,
        segment.limit,
    );
    segment.require_rights(c, segment.rights.raw() == 0xf3, Rule::Virtual8086Rights);
}

fn code_segment(c: &mut Checker<'_>, cs: &Segment, ss: &Segment) {
    let rights = cs.rights;
    let (dpl, ss_dpl) = (rights.dpl(), ss.rights.dpl());
    match rights.segment_type() {
        3 => {
            cs.require_rights(c, c.unrestricted_guest(), Rule::CsType);
            cs.require_rights(c, dpl == 0, Rule::CsDplOfData);
        }
        9 | 11 => cs.require_rights(c, dpl == ss_dpl, Rule::CsDplNonConforming),
        13 | 15 => cs.require_rights(c, dpl <= ss_dpl, Rule::CsDplConforming),
        _ => cs.require_rights(c, false, Rule::CsType),
    }
    cs.require_rights(c, rights.s(), Rule::SegmentS);
    cs.require_form(c);
    let in_64_bit_mode = c.long_mode_guest() && rights.l();
    cs.require_rights(c, !(in_64_bit_mode && rights.db()), Rule::CsDefaultSize);
}

fn stack_segment(c: &mut Checker<'_>, cs: &Segment, ss: &Segment) -> Result<(), VmcsError> {
    if !c.unrestricted_guest() {
        ss.require_selector(c, ss.rpl() == cs.rpl(), Rule::SsRplIsCsRpl);
        // These two hold for an unusable SS too.
        ss.require_rights(c, ss.rights.dpl() == ss.rpl(), Rule::SsDplIsRpl);
    }
    let real_mode = c.get(Field::GUEST_CR0)? & CR0_PE == 0;
    let needs_dpl_zero = cs.rights.segment_type() == 3 || real_mode;
    ss.require_rights(c, !needs_dpl_zero || ss.rights.dpl() == 0, Rule::SsDplZero);
    if ss.usable() {
        let kind = ss.rights.segment_type();
        ss.require_rights(c, matches!(kind, 3 | 7), Rule::SsType);
        ss.require_rights(c, ss.rights.s(), Rule::SegmentS);
        ss.require_form(c);
    }
    Ok(())
}

fn data_segment(c: &mut Checker<'_>, segment: &Segment) {
    if !segment.usable() {
        return;
    }
    let rights = segment.rights;
    let kind = rights.segment_type();
    segment.require_rights(c, kind & 1 != 0, Rule::DataSegmentAccessed);
    segment.require_rights(c, kind & 8 == 0 || kind & 2 != 0, Rule::DataSegmentReadable);
    segment.require_rights(c, rights.s(), Rule::SegmentS);
    if !c.unrestricted_guest() && kind <= 11 {
        segment.require_rights(c, rights.dpl() >= segment.rpl(), Rule::DataSegmentDpl);
    }
    segment.require_form(c);
}

fn bases(c: &mut Checker<'_>, cs: &Segment, ss: &Segment, data: &[Segment; 4]) {
    let [ds, es, fs, gs] = data;
    for segment in [fs, gs] {
        let canonical = c.caps.is_canonical(segment.base);
        segment.require_base(c, canonical, Rule::SegmentBaseCanonical);
    }
    cs.require_base(c, cs.base >> 32 == 0, Rule::SegmentBaseHigh);
    for segment in [ss, ds, es] {
        let low = segment.base >> 32 == 0;
        segment.require_base(c, low || !segment.usable(), Rule::SegmentBaseHigh);
    }
}

fn task_register(c: &mut Checker<'_>) -> Result<(), VmcsError> {
    let tr = c.segment(&TR)?;
    tr.require_selector(c, tr.selector & 4 == 0, Rule::SelectorTi);
    let canonical = c.caps.is_canonical(tr.base);
    tr.require_base(c, canonical, Rule::SegmentBaseCanonical);
    let busy = match tr.rights.segment_type() {
        3 => !c.long_mode_guest(),
        11 => true,
        _ => false,
    };
    tr.require_rights(c, busy, Rule::TrType);
    tr.require_rights(c, !tr.rights.s(), Rule::SystemSegmentS);
    tr.require_rights(c, tr.usable(), Rule::TrUsable);
    tr.require_form(c);
    Ok(())
}

fn local_descriptor_table(c: &mut Checker<'_>) -> Result<(), VmcsError> {
    let ldtr = c.segment(&LDTR)?;
    if !ldtr.usable() {
        return Ok(());
    }
    ldtr.require_selector(c, ldtr.selector & 4 == 0, Rule::SelectorTi);
    let canonical = c.caps.is_canonical(ldtr.base);
    ldtr.require_base(c, canonical, Rule::SegmentBaseCanonical);
    ldtr.require_rights(c, ldtr.rights.segment_type() == 2, Rule::LdtrType);
    ldtr.require_rights(c, !ldtr.rights.s(), Rule::SystemSegmentS);
    ldtr.require_form(c);
    Ok(())
}
