//! Cases for the guest's segment registers: Intel SDM, vol. 3, section 27.3.1.2.

use super::{Case, Field, Rule, Scene, as_is, case};

const NON_CANONICAL: u64 = 0x8000_0000_0000;

/// A usable LDTR.
fn ldtr(s: &mut Scene) {
    s.set(Field::GUEST_LDTR_SELECTOR, 0x50);
    s.set(Field::GUEST_LDTR_ACCESS_RIGHTS, 0x82);
    s.set(Field::GUEST_LDTR_LIMIT, 0xf);
}

/// CS, SS and DS at privilege level 3, with "unrestricted guest" off.
fn restricted_user(s: &mut Scene) {
    s.restricted();
    s.set(Field::GUEST_CS_SELECTOR, 0x33);
    s.set(Field::GUEST_CS_ACCESS_RIGHTS, 0xa0fb);
    s.set(Field::GUEST_SS_SELECTOR, 0x2b);
    s.set(Field::GUEST_SS_ACCESS_RIGHTS, 0xc0f3);
    s.set(Field::GUEST_DS_SELECTOR, 0x2b);
    s.set(Field::GUEST_DS_ACCESS_RIGHTS, 0xc0f3);
}

/// A conforming CS.
fn conforming(s: &mut Scene) {
    s.set(Field::GUEST_CS_ACCESS_RIGHTS, 0xa09f);
}

pub(super) const CASES: &[Case] = &[
    case!(SelectorTi, GUEST_TR_SELECTOR, |s| s
        .on(Field::GUEST_TR_SELECTOR, 4u64)),
    case!(SelectorTi, GUEST_LDTR_SELECTOR, ldtr, |s| s
        .on(Field::GUEST_LDTR_SELECTOR, 4u64)),
    case!(SsRplIsCsRpl, GUEST_SS_SELECTOR, restricted_user, |s| {
        // Its DPL follows, so that only CS disagrees; a conforming CS lets DPLs differ.
        s.set(Field::GUEST_CS_ACCESS_RIGHTS, 0xa0bf);
        s.set(Field::GUEST_SS_SELECTOR, 0x29);
        s.set(Field::GUEST_SS_ACCESS_RIGHTS, 0xc0b3);
    }),
    case!(Virtual8086Base, GUEST_FS_BASE, Scene::virtual_8086, |s| {
        s.on(Field::GUEST_FS_BASE, 1u64);
    }),
    case!(Virtual8086Limit, GUEST_CS_LIMIT, Scene::virtual_8086, |s| {
        s.set(Field::GUEST_CS_LIMIT, 0xfffff);
    }),
    case!(
        Virtual8086Rights,
        GUEST_SS_ACCESS_RIGHTS,
        Scene::virtual_8086,
        |s| {
            s.set(Field::GUEST_SS_ACCESS_RIGHTS, 0x93);
        }
    ),
    case!(SegmentBaseCanonical, GUEST_FS_BASE, |s| s
        .set(Field::GUEST_FS_BASE, NON_CANONICAL)),
    case!(SegmentBaseCanonical, GUEST_GS_BASE, |s| s
        .set(Field::GUEST_GS_BASE, NON_CANONICAL)),
    case!(SegmentBaseCanonical, GUEST_TR_BASE, |s| s
        .set(Field::GUEST_TR_BASE, NON_CANONICAL)),
    case!(SegmentBaseCanonical, GUEST_LDTR_BASE, ldtr, |s| {
        s.set(Field::GUEST_LDTR_BASE, NON_CANONICAL);
    }),
    case!(SegmentBaseHigh, GUEST_CS_BASE, |s| s
        .set(Field::GUEST_CS_BASE, 1 << 32)),
    case!(SegmentBaseHigh, GUEST_ES_BASE, |s| s
        .set(Field::GUEST_ES_BASE, 1 << 32)),
    case!(CsType, GUEST_CS_ACCESS_RIGHTS, |s| s
        .set(Field::GUEST_CS_ACCESS_RIGHTS, 0xa09a)),
    case!(
        CsType,
        GUEST_CS_ACCESS_RIGHTS,
        |s| s.set(Field::GUEST_CS_ACCESS_RIGHTS, 0xa093),
        |s| {
            s.restricted();
        }
    ),
    case!(SsType, GUEST_SS_ACCESS_RIGHTS, |s| s
        .set(Field::GUEST_SS_ACCESS_RIGHTS, 0xc091)),
    case!(DataSegmentAccessed, GUEST_DS_ACCESS_RIGHTS, |s| {
        s.set(Field::GUEST_DS_ACCESS_RIGHTS, 0xc092);
    }),
    case!(DataSegmentReadable, GUEST_ES_ACCESS_RIGHTS, |s| {
        s.set(Field::GUEST_ES_ACCESS_RIGHTS, 0xc099);
    }),
    case!(SegmentS, GUEST_CS_ACCESS_RIGHTS, |s| s
        .off(Field::GUEST_CS_ACCESS_RIGHTS, 0x10u64)),
    case!(SegmentS, GUEST_SS_ACCESS_RIGHTS, |s| s
        .off(Field::GUEST_SS_ACCESS_RIGHTS, 0x10u64)),
    case!(SegmentS, GUEST_DS_ACCESS_RIGHTS, |s| s
        .off(Field::GUEST_DS_ACCESS_RIGHTS, 0x10u64)),
    case!(
        CsDplOfData,
        GUEST_CS_ACCESS_RIGHTS,
        |s| s.set(Field::GUEST_CS_ACCESS_RIGHTS, 0xa093),
        |s| {
            s.set(Field::GUEST_CS_ACCESS_RIGHTS, 0xa0b3);
        }
    ),
    case!(CsDplNonConforming, GUEST_CS_ACCESS_RIGHTS, |s| {
        s.set(Field::GUEST_CS_ACCESS_RIGHTS, 0xa0fb);
    }),
    case!(CsDplConforming, GUEST_CS_ACCESS_RIGHTS, conforming, |s| {
        s.set(Field::GUEST_CS_ACCESS_RIGHTS, 0xa0bf);
    }),
    case!(
        SsDplIsRpl,
        GUEST_SS_ACCESS_RIGHTS,
        |s| {
            restricted_user(s);
            s.set(Field::GUEST_CS_ACCESS_RIGHTS, 0xa0df);
        },
        |s| {
            s.set(Field::GUEST_SS_ACCESS_RIGHTS, 0xc0d3);
        }
    ),
    case!(SsDplZero, GUEST_SS_ACCESS_RIGHTS, Scene::real_mode, |s| {
        s.set(Field::GUEST_SS_ACCESS_RIGHTS, 0xf3);
    }),
    case!(
        SsDplZero,
        GUEST_SS_ACCESS_RIGHTS,
        |s| {
            // Real mode with a conforming CS: PE alone asks for DPL 0.
            s.real_mode();
            s.set(Field::GUEST_CS_ACCESS_RIGHTS, 0x9f);
        },
        |s| {
            s.set(Field::GUEST_SS_ACCESS_RIGHTS, 0xf3);
        }
    ),
    case!(
        DataSegmentDpl,
        GUEST_DS_ACCESS_RIGHTS,
        restricted_user,
        |s| {
            s.set(Field::GUEST_DS_ACCESS_RIGHTS, 0xc0d3);
        }
    ),
    case!(
        DataSegmentDpl,
        GUEST_ES_ACCESS_RIGHTS,
        restricted_user,
        |s| {
            // Non-conforming code of the highest type that the rule holds for.
            s.set(Field::GUEST_ES_SELECTOR, 0x13);
            s.set(Field::GUEST_ES_ACCESS_RIGHTS, 0xc09b);
        }
    ),
    case!(SegmentPresent, GUEST_CS_ACCESS_RIGHTS, |s| s
        .off(Field::GUEST_CS_ACCESS_RIGHTS, 0x80u64)),
    case!(SegmentPresent, GUEST_TR_ACCESS_RIGHTS, |s| s
        .off(Field::GUEST_TR_ACCESS_RIGHTS, 0x80u64)),
    case!(SegmentPresent, GUEST_LDTR_ACCESS_RIGHTS, ldtr, |s| {
        s.off(Field::GUEST_LDTR_ACCESS_RIGHTS, 0x80u64);
    }),
    case!(RightsReserved, GUEST_SS_ACCESS_RIGHTS, |s| s
        .on(Field::GUEST_SS_ACCESS_RIGHTS, 0x100u64)),
    case!(RightsReserved, GUEST_TR_ACCESS_RIGHTS, |s| s
        .on(Field::GUEST_TR_ACCESS_RIGHTS, 0x2_0000u64)),
    case!(CsDefaultSize, GUEST_CS_ACCESS_RIGHTS, |s| s
        .on(Field::GUEST_CS_ACCESS_RIGHTS, 0x4000u64)),
    case!(LimitGranularity, GUEST_CS_ACCESS_RIGHTS, |s| s
        .set(Field::GUEST_CS_LIMIT, 0xffff_fffe)),
    case!(LimitGranularity, GUEST_DS_ACCESS_RIGHTS, |s| s
        .off(Field::GUEST_DS_ACCESS_RIGHTS, 0x8000u64)),
    case!(LimitGranularity, GUEST_TR_ACCESS_RIGHTS, |s| s
        .on(Field::GUEST_TR_ACCESS_RIGHTS, 0x8000u64)),
    case!(TrType, GUEST_TR_ACCESS_RIGHTS, |s| s
        .set(Field::GUEST_TR_ACCESS_RIGHTS, 0x89)),
    case!(
        TrType,
        GUEST_TR_ACCESS_RIGHTS,
        |s| {
            s.protected_mode();
            s.set(Field::GUEST_TR_ACCESS_RIGHTS, 0x83);
        },
        // Back to IA-32e mode, which has no 16-bit TSS.
        |s| {
            *s = Scene::well_formed();
            s.set(Field::GUEST_TR_ACCESS_RIGHTS, 0x83);
        }
    ),
    case!(TrUsable, GUEST_TR_ACCESS_RIGHTS, |s| s
        .on(Field::GUEST_TR_ACCESS_RIGHTS, 1u64 << 16)),
    case!(LdtrType, GUEST_LDTR_ACCESS_RIGHTS, ldtr, |s| {
        s.set(Field::GUEST_LDTR_ACCESS_RIGHTS, 0x83);
    }),
    case!(SystemSegmentS, GUEST_TR_ACCESS_RIGHTS, |s| s
        .on(Field::GUEST_TR_ACCESS_RIGHTS, 0x10u64)),
    case!(SystemSegmentS, GUEST_LDTR_ACCESS_RIGHTS, ldtr, |s| {
        s.on(Field::GUEST_LDTR_ACCESS_RIGHTS, 0x10u64);
    }),
];

#[test]
fn an_unusable_segment_may_hold_anything() {
    let mut scene = Scene::well_formed();
    for (rights, base) in [
        (Field::GUEST_SS_ACCESS_RIGHTS, Field::GUEST_SS_BASE),
        (Field::GUEST_DS_ACCESS_RIGHTS, Field::GUEST_DS_BASE),
        (Field::GUEST_ES_ACCESS_RIGHTS, Field::GUEST_ES_BASE),
        (Field::GUEST_LDTR_ACCESS_RIGHTS, Field::GUEST_LDTR_BASE),
    ] {
        // The DPL of SS counts even so: it is the CPL.
        scene.set(rights, 0x1_0f04);
        scene.set(base, NON_CANONICAL);
    }
    assert_eq!(scene.texts(), [""; 0]);
}
