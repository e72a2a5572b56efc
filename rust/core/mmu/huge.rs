// SPDX-License-Identifier: GPL-2.0

//! How large a page a fault may map.

use super::level::Level;
use crate::addr::{
    Gfn,
    PAGE_SHIFT, //
};
use crate::memslots::Region;

/// The largest level at which the page around `gfn` may be mapped.
///
/// `host` is the level at which the host maps the address (THP, hugetlb), `max` what processor and policy allow. A page
/// must lie in the slot as a whole, and guest and host frames must have the same offset in it, or the leaf would map
/// memory that is not the slot's. With dirty logging writes are told apart by 4 KiB.
pub fn fault_level(region: &Region, gfn: Gfn, host: Level, max: Level) -> Level {
    if region.logs_dirty_pages() {
        return Level::Page4K;
    }
    let mut level = host.min(max).min(Level::Page1G);
    while !fits(region, gfn, level) {
        match level.down() {
            Some(smaller) => level = smaller,
            None => break,
        }
    }
    level
}

fn fits(region: &Region, gfn: Gfn, level: Level) -> bool {
    let first = level.base(gfn);
    let inside = first >= region.base_gfn
        && first
            .0
            .checked_add(level.pages())
            .is_some_and(|end| end <= region.end_gfn().0);
    let host_frame = region.userspace_addr.0 >> PAGE_SHIFT;
    inside && (region.base_gfn.0 ^ host_frame) & level.offset_mask() == 0
}
