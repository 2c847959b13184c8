//! How fast it is. Run by hand, with optimisation: `cargo test --release -p sandbar-scripts --test engine -- --ignored --nocapture`.

use std::time::Instant;

use super::*;

const ROUNDS: usize = 3000;

#[test]
#[ignore = "says something only when optimised, on a quiet machine"]
fn a_call_in_a_fresh_instance() {
    let three = "console.log('hi', ctx.data.n); const a = await ctx.db.one('posts', ctx.data.n); const [b, c] = await Promise.all([ctx.fetch('https://x/' + a.id), ctx.db.list('posts', {limit: 2})]); return {sum: ctx.data.n + 1, a: a.id, b: b.status, c}";
    for (name, code) in [("trivial", "return ctx.data.n + 1"), ("three ops", three)] {
        value(code);
        let mut took: Vec<f64> = (0..ROUNDS)
            .map(|_| {
                let prepared = call(code);
                let began = Instant::now();
                prepared.end();
                began.elapsed().as_secs_f64() * 1e6
            })
            .collect();
        took.sort_by(f64::total_cmp);
        println!("{name}: p50 {:.0} us, p99 {:.0} us", took[ROUNDS / 2], took[ROUNDS * 99 / 100]);
    }
}
