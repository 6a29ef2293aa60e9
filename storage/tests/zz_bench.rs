#[path="it/state_support.rs"] #[allow(dead_code)] mod state_support;
use state_support::*;
#[test]
fn bench() {
    let home = rocks_home_big();
    let store = started(&home);
    for value in [256usize, 1024] {
    let n = 400u64;
    let v = vec![7u8; value];
    let mut seq = value as u64 * 1_000_000 + (start_at() as u64);
    let start = std::time::Instant::now();
    let mut cpu = 0.0; let _ = &mut cpu;
    for b in 0..n {
        let mut cmds = vec![];
        for i in 0..64u64 {
            seq += 1;
            let id = (seq.wrapping_mul(0x9E3779B97F4A7C15)).to_be_bytes();
            let _ = (b, i);
            cmds.push(by((i % 64) as u8, 1, seq, seq, put("agency", 1, &id, &v, None)));
        }
        apply(&store, cmds);
    }
    let t = start.elapsed();
    println!("{value}B: {:.2} us/put (wall)", t.as_secs_f64() * 1e6 / (n * 64) as f64);
    }
}
fn rocks_home_big() -> TestHome {
    rocks_home()
}
fn start_at() -> usize { 0 }
