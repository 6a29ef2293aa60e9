//! State machines of the product, checked in every order of events that fits a small scope, instead of in random ones.
//!
//! - `epochs`: a promotion's steps, and the return of whoever was left behind;
//! - `promotion`: what a plan to promote a site says of the loss;
//! - `protection`: a leader's watch over the other site.

mod epochs;
mod promotion;
mod protection;
