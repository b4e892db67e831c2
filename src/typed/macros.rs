//! The macro that declares the commands.

use std::fmt;

/// Declares commands: `struct NAME("qmp-name") -> RETURN { required arguments } { arguments that may be left out }`, each
/// argument with its type and its name in QMP. `new` takes the required ones in this order.
macro_rules! commands {
    ($(
        $(#[$meta:meta])*
        pub struct $name:ident($command:literal) -> $return:ty {
            $($(#[$required_meta:meta])* $required:ident: $required_type:ty = $required_wire:literal,)*
        } {
            $($(#[$optional_meta:meta])* $optional:ident: $optional_type:ty = $optional_wire:literal,)*
        }
    )*) => {$(
        $(#[$meta])*
        ///
        /// `Debug` shows the names of its arguments and never their values, which may be secret.
        #[derive(Clone, Default, PartialEq)]
        #[non_exhaustive]
        pub struct $name {
            $($(#[$required_meta])* pub $required: $required_type,)*
            $($(#[$optional_meta])* pub $optional: Option<$optional_type>,)*
            /// Arguments that have no member here.
            pub other: ::serde_json::Map<String, ::serde_json::Value>,
        }

        impl $name {
            /// The command with what it cannot do without.
            pub fn new($($required: impl Into<$required_type>),*) -> Self {
                $name {
                    $($required: $required.into(),)*
                    ..$name::default()
                }
            }

            $(
                $(#[$optional_meta])*
                pub fn $optional(mut self, $optional: impl Into<$optional_type>) -> Self {
                    self.$optional = Some($optional.into());
                    self
                }
            )*

            /// Adds an argument that has no member here, by its name in QMP.
            pub fn extra(
                mut self,
                name: impl Into<String>,
                value: impl Into<::serde_json::Value>,
            ) -> Self {
                self.other.insert(name.into(), value.into());
                self
            }

            fn to_value(&self) -> Option<::serde_json::Value> {
                $crate::types::wire::write_object(
                    &[
                        $(($required_wire, &self.$required),)*
                        $(($optional_wire, &self.$optional),)*
                    ],
                    &self.other,
                )
            }

            #[cfg(test)]
            pub(in crate::typed) fn kind() -> $crate::types::wire::Kind {
                $crate::types::wire::Kind::Object(vec![
                    $(($required_wire, Box::new(|| $crate::types::wire::Wire::kind(&<$required_type>::default()))),)*
                    $(($optional_wire, Box::new(|| $crate::types::wire::Wire::kind(&Option::<$optional_type>::default()))),)*
                ])
            }
        }

        impl ::serde::Serialize for $name {
            fn serialize<S: ::serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                self.to_value().serialize(serializer)
            }
        }

        impl ::std::fmt::Debug for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                $crate::typed::macros::debug(stringify!($name), self.to_value(), f)
            }
        }

        impl $crate::typed::QmpCommand for $name {
            const NAME: &'static str = $command;
            type Return = $return;
        }
    )*};
}

/// Shows a command by its name and those of its arguments.
pub(super) fn debug(
    name: &str,
    arguments: Option<serde_json::Value>,
    f: &mut fmt::Formatter<'_>,
) -> fmt::Result {
    let mut shown = f.debug_struct(name);
    if let Some(serde_json::Value::Object(arguments)) = arguments {
        for name in arguments.keys() {
            shown.field(name, &format_args!("_"));
        }
    }
    shown.finish()
}

pub(super) use commands;
