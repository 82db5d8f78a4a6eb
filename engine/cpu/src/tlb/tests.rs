use super::*;

fn fill(linear: u64, global: bool, size_shift: u32) -> Fill {
    Fill {
        linear,
        page: 0x7000_0000,
        physical: 0x5000,
        read: true,
        write: true,
        has_code: false,
        flags: 0,
        execute: true,
        global,
        size_shift,
    }
}

fn holds(tlb: &Tlb, linear: u64) -> bool {
    tlb.entry(Mode::Supervisor, linear).read == linear & !0xfff
}

#[test]
fn global_pages_survive_a_cr3_write_but_not_a_full_flush() {
    let mut tlb = Tlb::new(16);
    tlb.insert(Mode::Supervisor, &fill(0x1000, true, 12));
    tlb.insert(Mode::Supervisor, &fill(0x2000, false, 12));
    tlb.flush_non_global();
    assert!(!holds(&tlb, 0x2000));
    assert!(tlb.revive(Mode::Supervisor, 0x1000, |_| false));
    assert!(!tlb.revive(Mode::Supervisor, 0x2000, |_| false));
    tlb.flush_all();
    assert!(!holds(&tlb, 0x1000));
    assert!(!tlb.revive(Mode::Supervisor, 0x1000, |_| false));
}

#[test]
fn every_page_that_is_not_global_is_forgotten_wherever_it_is_and_however_it_came() {
    let mut tlb = Tlb::new(1024);
    let space = 1024 * PAGE_SIZE;
    let filled = |linear: u64| fill(linear, linear / PAGE_SIZE % 9 == 0, 12);
    for linear in (0..space).step_by(PAGE_SIZE as usize) {
        tlb.insert(Mode::Supervisor, &filled(linear));
    }
    tlb.flush_non_global();
    let pages = (0..space).step_by(PAGE_SIZE as usize);
    assert!(pages.clone().all(|linear| filled(linear).global || !holds(&tlb, linear)));
    tlb.insert(Mode::Supervisor, &filled(0x5000));
    tlb.insert(Mode::Supervisor, &filled(space + 0x5000));
    tlb.insert(Mode::Supervisor, &fill(space + 0x8000, true, 12));
    assert!(tlb.revive(Mode::Supervisor, 0x5000, |_| false));
    assert!(holds(&tlb, 0x5000) && holds(&tlb, space + 0x8000));
    tlb.flush_non_global();
    assert!(!holds(&tlb, 0x5000));
    assert!(holds(&tlb, space + 0x8000), "no page of its group was the space's own");
}

#[test]
fn translations_of_one_pcid_wait_while_another_runs() {
    let mut tlb = Tlb::new(16);
    tlb.select(1);
    tlb.insert(Mode::Supervisor, &fill(0x1000, false, 12));
    tlb.select(2);
    assert!(!holds(&tlb, 0x1000));
    tlb.select(1);
    assert!(holds(&tlb, 0x1000));
    tlb.flush_pcid(2);
    assert!(holds(&tlb, 0x1000));
    tlb.flush_pcid(1);
    assert!(!holds(&tlb, 0x1000));
}

#[test]
fn a_guests_translations_are_its_own_and_wait_while_others_run() {
    let guest = Owner { non_root: true, vpid: 1, ept: Some(0x7000) };
    let other = Owner { vpid: 2, ..guest };
    let mut tlb = Tlb::new(16);
    tlb.insert(Mode::Supervisor, &fill(0x1000, true, 12));
    tlb.change_owner(guest, 0);
    assert!(!holds(&tlb, 0x1000), "not even global pages are shared");
    tlb.insert(Mode::Supervisor, &fill(0x2000, true, 12));
    tlb.change_owner(other, 0);
    assert!(!holds(&tlb, 0x2000));
    tlb.flush_owners(|owner| owner.vpid == 2);
    tlb.flush_pcid(0);
    tlb.change_owner(guest, 0);
    assert!(holds(&tlb, 0x2000));
    tlb.flush_owners(|owner| owner.ept == Some(0x7000));
    assert!(!holds(&tlb, 0x2000));
    tlb.change_owner(Owner::default(), 0);
    assert!(holds(&tlb, 0x1000));
}

#[test]
fn a_replaced_space_starts_empty() {
    let mut tlb = Tlb::new(16);
    tlb.select(1);
    tlb.insert(Mode::Supervisor, &fill(0x1000, false, 12));
    (2..20).for_each(|pcid| tlb.select(pcid));
    tlb.select(1);
    assert!(!holds(&tlb, 0x1000));
}

#[test]
fn invalidating_any_address_of_a_large_page_forgets_all_of_it() {
    let mut tlb = Tlb::new(16);
    tlb.insert(Mode::Supervisor, &fill(0x20_1000, false, 21));
    tlb.invalidate_page(0x20_5000);
    assert!(!holds(&tlb, 0x20_1000));
}

#[test]
fn invlpg_spares_the_lower_half_of_other_spaces_until_globals_are_there() {
    let high = 0xffff_8000_0000_1000;
    let mut tlb = Tlb::new(16);
    for linear in [0x2000, high] {
        tlb.insert(Mode::Supervisor, &fill(linear, false, 12));
    }
    tlb.select(1);
    tlb.invalidate_page(0x2000);
    tlb.invalidate_page(high);
    tlb.select(0);
    assert!(holds(&tlb, 0x2000) && !holds(&tlb, high));
    tlb.insert(Mode::Supervisor, &fill(0x3000, true, 12));
    tlb.select(1);
    tlb.invalidate_page(0x3000);
    tlb.select(0);
    assert!(!holds(&tlb, 0x3000));
    tlb.select(1);
    tlb.invalidate_page_everywhere(0x2000);
    tlb.select(0);
    assert!(!holds(&tlb, 0x2000));
}

#[test]
fn forbidden_writes_miss_in_every_space_whenever_it_comes_back() {
    for pages in [1, MOST_FORBIDDEN + 2] {
        let mut tlb = Tlb::new(16);
        let writes = |tlb: &Tlb| tlb.entry(Mode::Supervisor, 0x2000).write == 0x2000;
        let filled = fill(0x2000, false, 12);
        tlb.insert(Mode::Supervisor, &filled);
        tlb.select(1);
        tlb.insert(Mode::Supervisor, &filled);
        (1..pages as u64).for_each(|page| tlb.forbid_writes(page << 12));
        assert!(writes(&tlb), "other pages");
        tlb.forbid_writes(filled.page);
        assert!(!writes(&tlb));
        tlb.insert(Mode::Supervisor, &filled);
        tlb.select(0);
        assert!(!writes(&tlb));
        assert!(holds(&tlb, 0x2000), "reads go on");
        tlb.select(1);
        assert!(writes(&tlb), "what was found afterwards stays");
    }
}

#[test]
fn no_address_hits_an_empty_entry() {
    let tlb = Tlb::new(16);
    for page in (0..32).chain((!0 >> 12) - 32..=!0 >> 12) {
        for address in [page << 12, page << 12 | 0xfff] {
            let entry = tlb.entry(Mode::Supervisor, address);
            assert!(address ^ entry.read >= 4096 && address ^ entry.write >= 4096, "{address:#x}");
        }
    }
}

#[test]
fn a_jump_is_known_by_its_whole_target() {
    let mut tlb = Tlb::new(16);
    let marked = 0x1234 | 1 << 62;
    tlb.insert_jump(Mode::User, 0x1234, 7);
    tlb.insert_jump(Mode::User, 0x1235, 8);
    assert_eq!(tlb.jump(Mode::User, 0x1234), Some(7));
    assert_eq!(tlb.jump(Mode::User, 0x1235), Some(8));
    assert_eq!(tlb.jump(Mode::Supervisor, 0x1234), None);
    assert_eq!(tlb.jump(Mode::User, 0x1236), None);
    tlb.insert_jump(Mode::User, marked, 9);
    assert_eq!((tlb.jump(Mode::User, marked), tlb.jump(Mode::User, 0x1234)), (Some(9), Some(7)));
    tlb.clear_jumps();
    assert_eq!(tlb.jump(Mode::User, marked), None);
}

#[test]
fn no_target_is_found_among_empty_jump_entries() {
    let empty = |target: u64| TlbEntry::no_jumps(jump_index(target) / 2);
    for target in (0..JUMPS as u64 * 4).chain([1 << 32, 1 << 63, !0, !0 << 32]) {
        assert!(empty(target).read != target && empty(target).exec != target);
    }
}

#[test]
fn displaced_jumps_are_found_beside_their_place() {
    let mut tlb = Tlb::new(16);
    let targets = of_bucket(1, |index| index == jump_index(1));
    for round in 1..3 {
        targets.iter().for_each(|&target| tlb.insert_jump(Mode::User, target, target + round));
        assert!(targets.iter().all(|&target| tlb.jump(Mode::User, target) == Some(target + round)));
    }
}

#[test]
fn jumps_that_are_in_use_outlast_those_that_are_not() {
    let all = of_bucket(1, |index| index / JUMP_PLACES == jump_index(1) / JUMP_PLACES);
    let others = of_bucket(1 << 20, |index| index / JUMP_PLACES == jump_index(1) / JUMP_PLACES);
    for in_use in [&all[..2], &all[..3], &all] {
        let mut tlb = Tlb::new(16);
        others.iter().for_each(|&target| tlb.insert_jump(Mode::User, target, 7));
        let mut misses = 0;
        for target in in_use.iter().cycle().take(1000) {
            if tlb.jump(Mode::User, *target).is_none() {
                tlb.insert_jump(Mode::User, *target, 8);
                misses += 1;
            }
        }
        assert!(misses < 200, "{misses} of {} jumps", in_use.len());
    }
}

/// As many targets from `start` on as a bucket has places, whose jump entries are where asked for.
fn of_bucket(start: u64, place: impl Fn(usize) -> bool) -> Vec<u64> {
    (start..).filter(|&target| place(jump_index(target))).take(JUMP_PLACES).collect()
}

#[test]
fn the_second_level_brings_back_what_another_page_displaced() {
    let mut tlb = Tlb::new(16);
    tlb.insert(Mode::Supervisor, &fill(0x1000, false, 12));
    tlb.insert(Mode::Supervisor, &fill(0x1_1000, false, 12));
    assert!(!holds(&tlb, 0x1000));
    assert!(tlb.revive(Mode::Supervisor, 0x1000, |_| true));
    assert!(holds(&tlb, 0x1000));
    assert_ne!(tlb.entry(Mode::Supervisor, 0x1000).write, 0x1000, "the page has code by now");
    assert!(!tlb.revive(Mode::Supervisor, 0x2000, |_| false));
    assert!(!tlb.revive(Mode::User, 0x1000, |_| false));
    tlb.invalidate_page(0x1000);
    assert!(!tlb.revive(Mode::Supervisor, 0x1000, |_| false));
}

#[test]
fn generations_never_bring_back_what_was_flushed() {
    let mut tlb = Tlb::new(16);
    tlb.insert(Mode::User, &fill(0x1000, true, 12));
    tlb.insert(Mode::User, &fill(0x2000, false, 12));
    for _ in 0..5000 {
        tlb.insert(Mode::User, &fill(0x3000, false, 12));
        tlb.flush_non_global();
        assert!(!tlb.revive(Mode::User, 0x2000, |_| false));
        assert!(!tlb.revive(Mode::User, 0x3000, |_| false));
    }
    tlb.insert(Mode::User, &fill(0x1000, true, 12));
    tlb.flush_non_global();
    assert!(tlb.revive(Mode::User, 0x1000, |_| false));
    tlb.flush_all();
    assert!(!tlb.revive(Mode::User, 0x1000, |_| false));
}

#[test]
fn one_compare_refuses_misses_and_page_crossings() {
    let mut tlb = Tlb::new(16);
    tlb.insert(Mode::Supervisor, &fill(0x1000, false, 12));
    let hit = |address: u64, size: u64| address ^ tlb.entry(Mode::Supervisor, address).read <= 4096 - size;
    assert!(hit(0x1ff8, 8));
    assert!(!hit(0x1ff9, 8));
    assert!(!hit(0x11ff8, 8), "same index, other page");
}
