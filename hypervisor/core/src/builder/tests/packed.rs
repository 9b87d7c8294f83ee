//! The same kernel in every packaging that Linux's build knows. The packers are other people's code.

use super::*;
use crate::builder::image::elf_file;
use lzma_rust2::filter::bcj::BcjWriter;
use lzma_rust2::{LzmaOptions, LzmaWriter, XzOptions, XzWriter};
use std::io::Write;

/// A bzImage with this payload.
fn bzimage(payload: &[u8]) -> Vec<u8> {
    let mut file = vec![0; 0x400 + 0x200];
    file[0x1f1] = 1;
    file[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    file[0x202..0x206].copy_from_slice(b"HdrS");
    file[0x206..0x208].copy_from_slice(&0x20fu16.to_le_bytes());
    file[0x248..0x24c].copy_from_slice(&0x200u32.to_le_bytes());
    file[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    file.extend(payload);
    file.extend([0; 64]);
    file
}

/// With the unpacked size behind it.
fn sized(mut packed: Vec<u8>, size: usize) -> Vec<u8> {
    packed.extend((size as u32).to_le_bytes());
    packed
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut file = vec![0x1f, 0x8b, 8, 0b1_1110, 0, 0, 0, 0, 2, 3, 4, 0];
    file.extend(b"xtranam\0comment\0hc");
    file.extend(miniz_oxide::deflate::compress_to_vec(data, 6));
    file.extend(hypervisor_unpack::crc32(data).to_le_bytes());
    sized(file, data.len())
}

fn xz(data: &[u8]) -> Vec<u8> {
    let mut options = XzOptions::with_preset(6);
    options.prepend_pre_filter(lzma_rust2::FilterType::BcjX86, 0);
    options.set_check_sum_type(lzma_rust2::CheckType::Crc32);
    let mut writer = XzWriter::new(Vec::new(), options).unwrap();
    writer.write_all(data).unwrap();
    sized(writer.finish().unwrap(), data.len())
}

fn lzma(data: &[u8]) -> Vec<u8> {
    let options = LzmaOptions::with_preset(6);
    let mut writer = LzmaWriter::new_use_header(Vec::new(), &options, None).unwrap();
    writer.write_all(data).unwrap();
    sized(writer.finish().unwrap(), data.len())
}

fn lz4(data: &[u8]) -> Vec<u8> {
    let mut file = vec![0x02, 0x21, 0x4c, 0x18];
    for block in data.chunks(8 << 20) {
        let packed = lz4_flex::block::compress(block);
        file.extend((packed.len() as u32).to_le_bytes());
        file.extend(packed);
    }
    sized(file, data.len())
}

fn zstd(data: &[u8]) -> Vec<u8> {
    let level = ruzstd::encoding::CompressionLevel::Fastest;
    sized(ruzstd::encoding::compress_to_vec(data, level), data.len())
}

/// A kernel with something to compress in it: calls and jumps, text, noise, zeroes.
fn kernel() -> Vec<u8> {
    let mut image = Image::small();
    let mut state = 1u32;
    let mut data = Vec::new();
    for n in 0..60_000u32 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        match state >> 28 {
            0..6 => data.extend([0xe8, (state >> 9) as u8, (n >> 5) as u8, 0, 0]),
            6 => data.extend([0xe9, 0xe8, (state >> 7) as u8, 0xff, 0xff, 0xff]),
            7 => data.extend([0xe8, 0xe9, 0xe8, 0xff, (state >> 8) as u8, 0, 0xe8]),
            8 => data.extend(state.to_le_bytes()),
            9 => data.extend([0; 40]),
            _ => data.extend(b"the quick brown fox "),
        }
    }
    image.parts[0].size = data.len() as u64;
    image.parts[0].data = data;
    image.build()
}

/// The packers by name.
pub(super) type Packer = (&'static str, fn(&[u8]) -> Vec<u8>);
pub(super) const PACKERS: [Packer; 6] =
    [("gzip", gzip), ("xz", xz), ("lzma", lzma), ("lz4", lz4), ("zstd", zstd), ("none", <[u8]>::to_vec)];

#[test]
fn every_packing_gives_the_same_kernel() {
    let kernel = kernel();
    for (name, pack) in PACKERS {
        let unpacked =
            elf_file(&bzimage(&pack(&kernel))).unwrap_or_else(|e| panic!("{name}: {e}")).into_owned();
        assert!(unpacked == kernel, "{name}");
    }
    assert!(*elf_file(&gzip(&kernel)).expect("a bare gzip file") == kernel);
}

#[test]
fn the_x86_filter_is_undone_like_elsewhere() {
    let mut state = 7u64;
    for length in (0..400).chain([5000, 70_000]) {
        // Mostly opcodes and operands' top bytes: every doubtful case occurs.
        let data: Vec<u8> = (0..length)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                [0xe8, 0xe9, 0, 0xff, 0, 0xff, 1, (state >> 50) as u8][(state >> 61) as usize]
            })
            .collect();
        let mut writer = BcjWriter::new_x86(Vec::new(), 0);
        writer.write_all(&data).unwrap();
        let mut filtered = writer.finish().unwrap();
        hypervisor_unpack::bcj::undo_x86_filter(&mut filtered);
        assert!(filtered == data, "{length}");
    }
}

#[test]
fn payloads_that_end_early_or_late() {
    let kernel = kernel();
    for (name, pack) in PACKERS.into_iter().filter(|(name, _)| *name != "none") {
        let packed = pack(&kernel);
        let (data, size) = packed.split_at(packed.len() - 4);
        // The last bytes only flush the packer (.lzma) or serve random access (.xz).
        for cut in [data.len() / 2, data.len() - 64, 20, 12, 4] {
            let file = bzimage(&[&data[..cut], size].concat());
            assert!(matches!(elf_file(&file), Err(BuildError::BadPayload(_))), "{name} cut at {cut}");
        }
        for wrong in [kernel.len() as u32 + 1, kernel.len() as u32 * 2] {
            let file = bzimage(&[data, &wrong.to_le_bytes()].concat());
            assert!(matches!(elf_file(&file), Err(BuildError::BadPayload(_))), "{name} said to be {wrong}");
        }
        let file = bzimage(&[data, &u32::MAX.to_le_bytes()].concat());
        assert_eq!(elf_file(&file).err(), Some(BuildError::PayloadTooLarge(u32::MAX.into())), "{name}");
    }
}

#[test]
fn a_flipped_bit_is_noticed_where_there_is_a_checksum() {
    let kernel = kernel();
    let packed = xz(&kernel);
    for at in (12..packed.len() - 60).step_by(997) {
        let mut packed = packed.clone();
        packed[at] ^= 0x10;
        assert!(matches!(elf_file(&bzimage(&packed)), Err(BuildError::BadPayload(_))), "{at}");
    }
}

#[test]
fn headers_that_lie() {
    let good = bzimage(&gzip(&kernel()));
    let with = |at: usize, bytes: &[u8]| {
        let mut file = good.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        elf_file(&file).expect_err("a refusal")
    };
    assert!(matches!(with(0x206, &[7, 2]), BuildError::BadBzImage(_)));
    assert!(matches!(with(0x248, &[0xff; 4]), BuildError::BadBzImage(_)));
    assert!(matches!(with(0x24c, &[0xff; 4]), BuildError::BadBzImage(_)));
    assert!(matches!(with(0x24c, &[0; 4]), BuildError::BadBzImage(_)));
    assert_eq!(with(0x1fe, &[0; 2]), BuildError::NotAKernel);
    assert!(matches!(with(0x1f1, &[9]), BuildError::UnknownCompression(_) | BuildError::BadBzImage(_)));
    assert!(matches!(elf_file(&good[..0x24a]), Err(BuildError::BadBzImage(_))));
    let payload = |bytes: &[u8]| elf_file(&bzimage(bytes)).expect_err("a refusal");
    assert_eq!(payload(b"BZh9xxxx"), BuildError::UnsupportedCompression("bzip2"));
    assert_eq!(payload(b"whatever"), BuildError::UnknownCompression(*b"what"));
    assert!(matches!(payload(&gzip(b"not a kernel")), BuildError::BadPayload(_)));
}
