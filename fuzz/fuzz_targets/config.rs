#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| parloop_testing::untrusted::config(data));
