use super::*;

fn claim(node_id: NodeId) -> FolderClaim {
    FolderClaim { node_id, name: format!("n{node_id}"), site: "main".into(), role: Role::Voter }
}

#[test]
fn folder_keeps_its_id_and_cluster_across_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let mut folder = DataFolder::open(dir.path(), claim(1), [7; 16]).unwrap();
    assert_eq!(folder.identity(), None);
    let identity = folder.adopt([9; 16], 3, None).unwrap();
    drop(folder);
    let again = DataFolder::open(dir.path(), claim(1), [8; 16]).unwrap();
    assert_eq!(again.identity(), Some(identity));
    assert_eq!(again.folder_id(), [7; 16]);
}

#[test]
fn folder_of_another_node_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    drop(DataFolder::open(dir.path(), claim(1), [7; 16]).unwrap());
    let error = DataFolder::open(dir.path(), claim(2), [8; 16]).unwrap_err();
    assert!(matches!(error, FolderError::OtherNode { .. }));
    assert!(error.to_string().contains("voter 1 (n1, site main)"), "{error}");
}

#[test]
fn folder_in_use_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let _first = DataFolder::open(dir.path(), claim(1), [7; 16]).unwrap();
    assert!(matches!(DataFolder::open(dir.path(), claim(1), [7; 16]), Err(FolderError::InUse(_))));
}

#[test]
fn closed_folder_is_free_while_a_child_process_still_shares_its_files() {
    let dir = tempfile::tempdir().unwrap();
    let first = DataFolder::open(dir.path(), claim(1), [7; 16]).unwrap();
    let _as_forked = first._lock.0.try_clone().unwrap();
    drop(first);
    DataFolder::open(dir.path(), claim(1), [7; 16]).unwrap();
}

#[test]
fn a_stopped_folder_is_read_by_several_and_started_by_none() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(StoppedFolder::open(&dir.path().join("gone")), Err(FolderError::Missing(_))));
    let node = DataFolder::open(dir.path(), claim(1), [7; 16]).unwrap();
    assert!(matches!(StoppedFolder::open(dir.path()), Err(FolderError::InUse(_))));
    drop(node);
    let reader = StoppedFolder::open(dir.path()).unwrap();
    assert_eq!(StoppedFolder::open(dir.path()).unwrap().identity().unwrap().unwrap().claim, claim(1));
    assert!(matches!(DataFolder::open(dir.path(), claim(1), [7; 16]), Err(FolderError::InUse(_))));
    drop(reader);
    DataFolder::open(dir.path(), claim(1), [7; 16]).unwrap();
}

#[test]
fn the_folder_says_which_release_wrote_it_and_a_newer_one_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut folder = DataFolder::open(dir.path(), claim(1), [7; 16]).unwrap();
    folder.adopt([9; 16], 3, None).unwrap();
    drop(folder);
    let release = || StoppedFolder::open(dir.path()).unwrap().identity().unwrap().unwrap().release;
    assert_eq!(release(), RELEASE);
    let text = fs::read_to_string(dir.path().join(IDENTITY)).unwrap();
    fs::write(dir.path().join(IDENTITY), text.replace(&format!("release = {RELEASE}\n"), "")).unwrap();
    assert_eq!(release(), "");
    DataFolder::open(dir.path(), claim(1), [7; 16]).unwrap();
    assert_eq!(release(), RELEASE, "who opens it writes its release");

    fs::write(dir.path().join(IDENTITY), "saola-folder 4\nkind = new\nrelease = 0.3.0\n").unwrap();
    let refused = DataFolder::open(dir.path(), claim(1), [7; 16]).unwrap_err().to_string();
    assert!(refused.contains("has format 4, written by Saola 0.3.0; this release"), "{refused}");
    assert!(refused.ends_with("reads format 3: install 0.3.0 or later"), "{refused}");
}

#[test]
fn what_promotions_and_fences_leave_is_there_after_a_restart_and_older_releases_do_not_run_it() {
    let dir = tempfile::tempdir().unwrap();
    let learner = FolderClaim { role: Role::Learner, ..claim(4) };
    let open = || DataFolder::open(dir.path(), learner.clone(), [7; 16]).unwrap();
    let text = || fs::read_to_string(dir.path().join(IDENTITY)).unwrap();
    let mut folder = open();
    folder.adopt([9; 16], 1, None).unwrap();
    assert!(text().starts_with("saola-folder 1\n"));
    let plan = Bytes::from_static(b"\x00plan\xff");
    let fenced = Fence { why: "by an\noperator".into(), record: Some(plan.clone()) };
    let lineage = Lineage {
        promised: Some(Promise { epoch: 3, plan: plan.clone() }),
        outbid: vec![Promise { epoch: 2, plan: Bytes::from_static(b"earlier") }],
        given_up: 1,
        fenced: Some(fenced),
        ..Lineage::default()
    };
    folder.set_lineage(lineage.clone()).unwrap();
    assert!(text().starts_with("saola-folder 2\n"), "{}", text());
    drop(folder);
    let mut folder = open();
    assert_eq!(
        (&folder.lineage().promised, &folder.lineage().outbid, folder.lineage().given_up),
        (&lineage.promised, &lineage.outbid, 1)
    );
    assert_eq!(folder.lineage().fenced.as_ref().unwrap().why, "by an operator");
    folder.begin_epoch(2, plan.clone()).unwrap();
    drop(folder);
    let folder = open();
    assert_eq!(folder.lineage(), &Lineage { votes: true, record: Some(plan), ..Lineage::default() });
    assert_eq!((folder.claim().role, folder.identity().unwrap().epoch), (Role::Voter, 2));
}

#[test]
fn a_reinstated_node_goes_by_another_number_than_its_settings_say_and_earlier_releases_do_not_run_it() {
    let dir = tempfile::tempdir().unwrap();
    let open = || DataFolder::open(dir.path(), claim(1), [7; 16]).unwrap();
    let mut folder = open();
    folder.adopt([9; 16], 1, None).unwrap();
    let reinstating = Reinstating { members: Bytes::from_static(b"members"), left_behind: Bytes::new() };
    folder.reinstate((6, [8; 16]), 2, Bytes::from_static(b"plan"), reinstating.clone()).unwrap();
    drop(folder);
    let text = fs::read_to_string(dir.path().join(IDENTITY)).unwrap();
    assert!(text.starts_with("saola-folder 3\n") && text.contains("node_id = 1\n"), "{text}");
    let mut folder = open();
    assert_eq!(folder.lineage().reinstating, Some(reinstating));
    let own = folder.identity().unwrap();
    assert_eq!((own.node_id, own.folder_id, own.epoch, own.cluster_id), (6, [8; 16], 2, [9; 16]));
    assert!(matches!(folder.begin_epoch(3, Bytes::new()), Err(FolderError::ComesBack(_))), "its records are older");
    let log = |name: &str| dir.path().join(name);
    fs::create_dir(log("log")).unwrap();
    fs::write(log("log").join("before"), "x").unwrap();
    folder.put_aside().unwrap();
    fs::create_dir(log("log")).unwrap();
    folder.put_aside().unwrap();
    assert!(!log("log").exists() && log("log.left-behind-by-1/before").exists(), "the first one is kept");
    folder.set_lineage(Lineage { reinstating: None, ..folder.lineage().clone() }).unwrap();
    folder.remove_aside().unwrap();
    assert!(!log("log.left-behind-by-1").exists());
    folder.begin_epoch(3, Bytes::from_static(b"later")).unwrap();
    drop(folder);
    assert_eq!(open().claim().node_id, 6, "for good");
}

#[test]
fn foreign_and_damaged_folders_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("lost+found")).unwrap();
    fs::write(dir.path().join("photos.txt"), "x").unwrap();
    assert!(matches!(DataFolder::open(dir.path(), claim(1), [7; 16]), Err(FolderError::Foreign(_))));
    fs::write(dir.path().join(IDENTITY), "saola-folder 1\nnode_id = x\n").unwrap();
    assert!(matches!(DataFolder::open(dir.path(), claim(1), [7; 16]), Err(FolderError::Damaged { .. })));
    fs::write(dir.path().join(IDENTITY), "saola-folder 4\n").unwrap();
    assert!(matches!(DataFolder::open(dir.path(), claim(1), [7; 16]), Err(FolderError::Newer { .. })));
}

#[test]
fn a_file_system_of_its_own_is_a_fresh_folder() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("lost+found")).unwrap();
    assert!(DataFolder::open(dir.path(), claim(1), [7; 16]).is_ok());
}
