//! Frames to send.

extern crate std;

use std::vec::Vec;

use super::super::checksum::{Transport, fill_ipv4_header};

/// Ethernet header, from station 1 to station 2.
fn ethernet(kind: u16) -> Vec<u8> {
    let [high, low] = kind.to_be_bytes();
    [[2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1]].concat().into_iter().chain([high, low]).collect()
}

/// An IP header for `length` bytes of `protocol` behind an Ethernet header.
fn ip(version: u8, protocol: u8, length: usize) -> Vec<u8> {
    let length = u16::try_from(length).unwrap();
    if version == 4 {
        let mut frame = ethernet(0x0800);
        let [high, low] = (length + 20).to_be_bytes();
        frame.extend([0x45, 0, high, low, 0x12, 0x34, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        fill_ipv4_header(&mut frame, 14);
        frame
    } else {
        let mut frame = ethernet(0x86dd);
        let [high, low] = length.to_be_bytes();
        frame.extend([0x60, 0, 0, 0, high, low, protocol, 64]);
        frame.extend((0..32).map(|byte| byte | 0x20));
        frame
    }
}

/// A UDP packet with its checksum.
pub fn udp(version: u8, data: &[u8]) -> Vec<u8> {
    let mut frame = ip(version, 17, data.len() + 8);
    let [high, low] = u16::try_from(data.len() + 8).unwrap().to_be_bytes();
    frame.extend([0x30, 0x39, 0, 53, high, low, 0, 0]);
    frame.extend(data);
    finished(frame)
}

/// A TCP packet with its checksum.
pub fn tcp(version: u8, sequence: u32, data: &[u8]) -> Vec<u8> {
    let mut frame = ip(version, 6, data.len() + 20);
    frame.extend([0x30, 0x39, 0, 80]);
    frame.extend(sequence.to_be_bytes());
    frame.extend([0, 0, 0, 1, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0]);
    frame.extend(data);
    finished(frame)
}

fn finished(mut frame: Vec<u8>) -> Vec<u8> {
    Transport::find(&frame).unwrap().fill(&mut frame);
    frame
}

/// The frame with VLAN tags.
pub fn tagged(frame: &[u8], tags: usize) -> Vec<u8> {
    let mut tagged = frame[..12].to_vec();
    for _ in 0..tags {
        tagged.extend([0x81, 0, 0, 7]);
    }
    tagged.extend(&frame[12..]);
    tagged
}
