//! Sorting of short lists. Each use of the standard library's sort adds 5 KiB to the image.

/// Sorts by what `key` says; equal elements keep their order. For lists that are short or nearly in order: the number of steps grows with
/// the square of what is not.
pub fn sort_few<T, K: Ord>(list: &mut [T], key: impl Fn(&T) -> K) {
    for end in 1..list.len() {
        let mut at = end;
        while at > 0 && key(&list[at - 1]) > key(&list[at]) {
            list.swap(at - 1, at);
            at -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_sorts_as_the_standard_library_does(list: std::vec::Vec<(u8, u8)>) {
            let (mut ours, mut theirs) = (list.clone(), list);
            sort_few(&mut ours, |pair| pair.0);
            theirs.sort_by_key(|pair| pair.0);
            prop_assert_eq!(ours, theirs);
        }
    }
}
