//! State machines of the product, checked in every order of events that fits a small scope, instead of in random ones.
//!
//! - `promotion`: what a plan to promote a site says of the loss;
//! - `protection`: a leader's watch over the other site.

mod promotion;
mod protection;
