//! Many requests at once, and malformed ones.

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;

use super::client::{Client, Head, MOUNT, NFS, number, opened, own, string, unix, words};
use super::{BAD, SECTORS};
use crate::common::{Lab, Random, wait_until};

tests!(
    fn many_calls_in_flight_are_all_answered() {
        let lab = Lab::new();
        let truth = lab.image(SECTORS, 512, &BAD);
        let (server, mut client, _, disk) = opened(&lab);
        let mut writer = Client(client.0.try_clone().unwrap());
        let asked: Vec<u32> = (0..2000).map(|i| i * 37 % SECTORS as u32).collect();
        let mut left: std::collections::BTreeSet<u32> = asked.iter().copied().collect();
        let sender = std::thread::spawn(move || {
            let head = Head { rpc: 2, program: NFS, version: 3, procedure: 6, credential: unix(own()) };
            for lba in asked {
                let offset = (u64::from(lba) * 512).to_be_bytes().to_vec();
                writer.send(lba, &head, &[string(&disk), offset, words(&[512])].concat());
            }
        });
        while !left.is_empty() {
            let reply = client.reply();
            let lba = number(&reply, 0);
            let bad = BAD.iter().any(|(first, n)| (*first..first + n).contains(&u64::from(lba)));
            assert_eq!(number(&reply, 24), if bad { 5 } else { 0 }, "sector {lba}");
            assert!(bad || reply[24 + 8 + 84 + 12..][..512] == truth[lba as usize * 512..][..512]);
            assert!(left.remove(&lba), "sector {lba} was answered twice");
        }
        sender.join().unwrap();
        assert_eq!(server.end(), 0);
    }

    fn malformed_requests_do_no_harm_and_take_no_memory() {
        let lab = Lab::new();
        let truth = lab.image(SECTORS, 512, &BAD);
        let (server, mut client, _, disk) = opened(&lab);
        // Wrong versions, programs, procedures, credentials: refused as the protocol says.
        let head = |rpc, program, version, procedure, credential| Head {
            rpc,
            program,
            version,
            procedure,
            credential,
        };
        for (head, expect) in [
            (head(3, NFS, 3, 0, unix(0)), vec![1, 0, 2, 2]),
            (head(2, 100_000, 2, 0, unix(0)), vec![0, 0, 0, 1]),
            (head(2, NFS, 4, 1, unix(0)), vec![0, 0, 0, 2, 3, 3]),
            (head(2, MOUNT, 1, 1, unix(0)), vec![0, 0, 0, 2, 3, 3]),
            (head(2, NFS, 3, 22, unix(0)), vec![0, 0, 0, 3]),
            (head(2, MOUNT, 3, 6, unix(0)), vec![0, 0, 0, 3]),
            (head(2, NFS, 3, 1, unix(0)), vec![0, 0, 0, 4]),
            (head(2, NFS, 3, 1, words(&[6, 0])), vec![1, 1, 1]),
            (head(2, NFS, 3, 1, [words(&[1]), string(b"abc")].concat()), vec![1, 1, 1]),
            (head(2, NFS, 3, 0, unix(0)), vec![0, 0, 0, 0]),
        ] {
            assert_eq!(client.call(&head, &[]), words(&expect));
        }
        // Every procedure with arguments that are meaningless, of a wrong length, or truncated.
        let mut random = Random::new(42);
        for round in 0..3000 {
            let program = if random.below(5) == 0 { MOUNT } else { NFS };
            let head = head(2, program, 3, random.below(23) as u32, unix(random.below(3) as u32));
            let mut args = [string(&disk), string(b"name"), words(&[0, 0, 0, 512, 0, 9])].concat();
            for _ in 0..random.below(6) {
                let at = random.below(args.len() as u64) as usize;
                args[at] = random.next() as u8;
            }
            args.truncate(random.below(args.len() as u64 + 1) as usize);
            assert!(client.call(&head, &args).len() >= 12, "round {round}");
        }
        // A malformed call ends its own connection and no other; a call that claims to be long takes no memory.
        let mut messages = vec![
            vec![0; 100_000],
            vec![0xFF; 100_000],
            b"GET / HTTP/1.1\r\n\r\n".repeat(100),
            words(&[0x7fff_ffff]),
            words(&[0x80ff_ffff, 1, 0, 2]),
            words(&[0x8000_0000]),
            [words(&[0x8000_0018, 1, 0, 2, NFS, 3, 0]), words(&[1, 0xffff_fff0])].concat(),
        ];
        messages.extend((0..200).map(|_| (0..random.below(400)).map(|_| random.next() as u8).collect()));
        for message in messages {
            let mut stream = Client::connect(&server.url).0;
            let _ = stream.write_all(&message);
            let _ = stream.shutdown(Shutdown::Write);
            let _ = stream.read_to_end(&mut Vec::new());
        }
        // Many malformed connections that are closed again occupy no place forever.
        for _ in 0..140 {
            let mut stream = Client::connect(&server.url).0;
            let _ = stream.write_all(&words(&[1 << 31 | 12, 1, 2, 3]).repeat(500));
        }
        let threads = || fs::read_dir(format!("/proc/{}/task", server.child.id())).unwrap().count();
        wait_until("their threads have ended", || threads() < 20);
        // Clients that occupy every place and read no replies: existing connections continue, and new ones get in.
        let null = words(&[1 << 31 | 40, 1, 0, 2, NFS, 3, 0, 0, 0, 0, 0]);
        let many: Vec<Client> = (0..100).map(|_| Client::connect(&server.url)).collect();
        for stranger in &many {
            stranger.0.set_nonblocking(true).unwrap();
            for _ in 0..200 {
                let _ = (&stranger.0).write(&null.repeat(1000));
            }
        }
        assert!(client.read(&disk, 0, 512, own()).unwrap() == truth[..512]);
        let mut late = Client::connect(&server.url);
        assert!(late.read(&disk, 512, 512, own()).unwrap() == truth[512..1024]);
        drop(many);
        let status = fs::read_to_string(format!("/proc/{}/status", server.child.id())).unwrap();
        let peak = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap();
        let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
        assert!(peak < 64 << 10, "the server took {peak} KiB");
        assert_eq!(server.end(), 0);
    }
);
