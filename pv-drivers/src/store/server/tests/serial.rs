//! Transactions of two clients on a few nodes: those that are committed might as well have run one after the other.

use super::*;

/// A step of one of two clients, in a transaction or not.
#[derive(Clone, Debug)]
enum Step {
    Begin,
    End(bool),
    Read(u8),
    Write(u8, u8),
    Remove(u8),
    List,
}

fn step() -> impl Strategy<Value = (usize, Step)> {
    let step = prop_oneof![
        Just(Step::Begin),
        any::<bool>().prop_map(Step::End),
        (0..4u8).prop_map(Step::Read),
        (0..4u8, any::<u8>()).prop_map(|(node, value)| Step::Write(node, value)),
        (0..4u8).prop_map(Step::Remove),
        Just(Step::List),
    ];
    (0..2usize, step)
}

type Model = std::collections::BTreeMap<u8, u8>;

/// A client's transaction: its number, what it did, and what it saw.
type Open = (Id, Vec<Step>, Vec<Vec<u8>>);

proptest! {
    /// Transactions that are committed might as well have run one after the other, each at its end.
    #[test]
    fn transactions_are_serial(steps in prop::collection::vec(step(), 1..60)) {
        let mut server = Server::default();
        let clients = [server.connect(0, true, None), server.connect(0, true, None)];
        server.mkdir(clients[0], NONE, "/d").unwrap();
        let mut model = Model::new();
        let mut open: [Option<Open>; 2] = [None, None];
        for (who, step) in steps {
            match step {
                Step::Begin if open[who].is_none() => {
                    open[who] = Some((server.begin(clients[who]).unwrap(), vec![], vec![]));
                }
                Step::Begin => {}
                Step::End(commit) => {
                    let Some((id, steps, saw)) = open[who].take() else { continue };
                    match server.end(clients[who], id, commit) {
                        Ok(()) if commit => {
                            let again: Vec<_> = steps.iter().map(|step| in_model(&mut model, step)).collect();
                            prop_assert_eq!(saw, again);
                        }
                        Ok(()) => {}
                        Err(error) => prop_assert_eq!(error, Errno::EAGAIN),
                    }
                }
                step => {
                    let id = open[who].as_ref().map_or(NONE, |open| open.0);
                    let saw = in_server(&mut server, clients[who], id, &step);
                    match &mut open[who] {
                        Some((_, steps, all)) => {
                            steps.push(step);
                            all.push(saw);
                        }
                        None => prop_assert_eq!(saw, in_model(&mut model, &step)),
                    }
                }
            }
        }
        prop_assert_eq!(in_server(&mut server, clients[0], NONE, &Step::List), in_model(&mut model, &Step::List));
    }
}

fn in_server(server: &mut Server, client: Connection, id: Id, step: &Step) -> Vec<u8> {
    match step {
        Step::Read(node) => server.read(client, id, &format!("/d/{node}")).unwrap_or_default(),
        Step::Write(node, value) => {
            server.write(client, id, &format!("/d/{node}"), &[*value]).unwrap();
            vec![]
        }
        Step::Remove(node) => {
            server.remove(client, id, &format!("/d/{node}")).unwrap();
            vec![]
        }
        _ => server.directory(client, id, "/d").unwrap().0.iter().map(|name| name.as_bytes()[0]).collect(),
    }
}

fn in_model(model: &mut Model, step: &Step) -> Vec<u8> {
    match step {
        Step::Read(node) => model.get(node).map(|value| vec![*value]).unwrap_or_default(),
        Step::Write(node, value) => {
            model.insert(*node, *value);
            vec![]
        }
        Step::Remove(node) => {
            model.remove(node);
            vec![]
        }
        _ => model.keys().map(|node| b'0' + node).collect(),
    }
}
