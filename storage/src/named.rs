//! Lists of things that have names, for those that have them happen in tests.

/// An enum of such things: each with its name as it is written in tables, and what it is.
macro_rules! named {
    ($(#[$doc:meta])* $list:ident { $($name:ident = $text:literal, $what:literal;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $list { $(#[doc = $what] $name,)* }

        impl $list {
            /// All of them.
            pub const ALL: &'static [$list] = &[$($list::$name),*];

            /// As it is written in tables.
            pub fn name(self) -> &'static str {
                match self { $($list::$name => $text,)* }
            }

            /// What it is.
            pub fn what(self) -> &'static str {
                match self { $($list::$name => $what,)* }
            }
        }
    };
}

pub(crate) use named;
