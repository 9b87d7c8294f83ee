//! The server against a naive model: whole copies of a flat map of paths, every watch asked about every change, rights
//! looked up by hand, and what each domain is charged counted anew after each step.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

#[derive(Clone, Debug, PartialEq)]
struct Node {
    value: Vec<u8>,
    rights: Vec<(u16, Permission)>,
    written: usize,
}

type Nodes = BTreeMap<String, Node>;

#[derive(Clone, Debug)]
enum Op {
    Write(String, Vec<u8>),
    Mkdir(String),
    Remove(String),
    SetRights(String, Vec<(u16, Permission)>),
    Read(String),
    List(String),
}

#[derive(Clone, Debug)]
enum Step {
    Do(bool, Op),
    Begin,
    End(bool),
    Watch(String),
    Unwatch(String),
    Die,
}

/// What an operation answered.
type Answer = Result<Vec<String>, Errno>;

struct Open {
    id: Id,
    done: Vec<(Op, usize, Answer)>,
    /// Changes of the tree when it began.
    changes: usize,
}

struct Model {
    nodes: Nodes,
    time: usize,
    changes: usize,
    since: BTreeMap<u16, usize>,
    watches: BTreeSet<(u16, String)>,
    told: BTreeSet<(u16, String, String)>,
}

fn parent(path: &str) -> &str {
    match path.rfind('/') {
        Some(0) | None => "/",
        Some(at) => &path[..at],
    }
}

fn is_within(path: &str, top: &str) -> bool {
    top == "/" || path == top || path.starts_with(&format!("{top}/"))
}

impl Model {
    fn may(&self, domain: u16, deed: Deed, node: &Node) -> bool {
        let means = self.since.get(&domain).is_some_and(|since| *since <= node.written);
        let listed = node.rights[1..].iter().find(|(other, _)| *other == domain && means);
        let right = listed.unwrap_or(&node.rights[0]).1;
        domain == 0
            || domain == node.rights[0].0 && means
            || deed == Deed::Read && matches!(right, Permission::Read | Permission::Both)
            || deed == Deed::Write && matches!(right, Permission::Write | Permission::Both)
    }

    /// The node, or the error for one that is missing or forbidden.
    fn find<'a>(&self, nodes: &'a Nodes, domain: u16, path: &str, deed: Deed) -> Result<&'a Node, Errno> {
        match nodes.get(path) {
            Some(node) if self.may(domain, deed, node) => Ok(node),
            Some(_) => Err(Errno::EACCES),
            None if self.may(domain, Deed::Read, self.nearest(nodes, path)) => Err(Errno::ENOENT),
            None => Err(Errno::EACCES),
        }
    }

    fn nearest<'a>(&self, nodes: &'a Nodes, path: &str) -> &'a Node {
        let mut at = path;
        loop {
            match nodes.get(at) {
                Some(node) => return node,
                None => at = parent(at),
            }
        }
    }

    /// Does an operation on `nodes`; the answer, and whether something changed.
    fn act(&self, nodes: &mut Nodes, domain: u16, op: &Op, time: usize) -> (Answer, bool) {
        match self.try_act(nodes, domain, op, time) {
            Ok((answer, changed)) => (Ok(answer), changed),
            Err(error) => (Err(error), false),
        }
    }

    fn try_act(
        &self,
        nodes: &mut Nodes,
        domain: u16,
        op: &Op,
        time: usize,
    ) -> Result<(Vec<String>, bool), Errno> {
        match op {
            Op::Write(path, value) => {
                if nodes.contains_key(path) {
                    self.find(nodes, domain, path, Deed::Write)?;
                } else {
                    self.make(nodes, domain, path)?;
                }
                nodes.get_mut(path).unwrap().value = value.clone();
                Ok((vec![], true))
            }
            Op::Mkdir(path) if nodes.contains_key(path) => {
                self.find(nodes, domain, path, Deed::Write).map(|_| (vec![], false))
            }
            Op::Mkdir(path) => self.make(nodes, domain, path).map(|()| (vec![], true)),
            Op::Remove(path) => match self.find(nodes, domain, path, Deed::Write) {
                Ok(_) => {
                    nodes.retain(|other, _| !is_within(other, path));
                    Ok((vec![], true))
                }
                Err(Errno::ENOENT) if nodes.contains_key(parent(path)) => Ok((vec![], false)),
                Err(error) => Err(error),
            },
            Op::SetRights(path, rights) => {
                let owner = self.find(nodes, domain, path, Deed::Own)?.rights[0].0;
                if domain != 0 && rights[0].0 != owner {
                    return Err(Errno::EPERM);
                }
                if self.since.get(&rights[0].0).is_none_or(|since| *since > time) {
                    return Err(Errno::EAGAIN);
                }
                let node = nodes.get_mut(path).unwrap();
                (node.rights, node.written) = (rights.clone(), time);
                Ok((vec![], true))
            }
            Op::Read(path) => {
                let node = self.find(nodes, domain, path, Deed::Read)?;
                Ok((vec![format!("{:?}", node.value)], false))
            }
            Op::List(path) => {
                self.find(nodes, domain, path, Deed::Read)?;
                let names = nodes.keys().filter(|other| *other != "/" && parent(other) == path);
                Ok((names.map(|name| name.rsplit('/').next().unwrap().into()).collect(), false))
            }
        }
    }

    /// What a node has of the one above is said of it now, also where a transaction asked for it earlier.
    fn make(&self, nodes: &mut Nodes, domain: u16, path: &str) -> Result<(), Errno> {
        let above = self.nearest(nodes, path).clone();
        if !self.may(domain, Deed::Write, &above) {
            return Err(Errno::EACCES);
        }
        let means = |other: &u16| self.since.get(other).is_some_and(|since| *since <= above.written);
        let mut rights = vec![above.rights[0]];
        rights.extend(above.rights[1..].iter().filter(|(other, _)| means(other)));
        if domain != 0 {
            rights[0].0 = domain;
        }
        let mut at = path;
        while !nodes.contains_key(at) {
            nodes.insert(at.into(), Node { value: vec![], rights: rights.clone(), written: self.time });
            at = parent(at);
        }
        Ok(())
    }

    /// Notes who is told of a change of `path`.
    fn tell(&mut self, path: &str, is_removal: bool, before: &Nodes) {
        let mut all = BTreeSet::new();
        for (domain, watched) in &self.watches {
            let told = if is_within(path, watched) {
                path
            } else if is_removal && is_within(watched, path) && before.contains_key(watched) {
                watched
            } else {
                continue;
            };
            let reads = |nodes: &Nodes, path: &str| {
                nodes.get(path).is_some_and(|node| self.may(*domain, Deed::Read, node))
            };
            if reads(before, told) || reads(&self.nodes, told) || reads(&self.nodes, parent(told)) {
                all.insert((*domain, told.into(), watched.clone()));
            }
        }
        self.told.append(&mut all);
    }

    /// Makes changes one after the other and then tells of them; the answers.
    fn run(&mut self, domain: u16, ops: &[(Op, usize)]) -> Vec<Answer> {
        let (mut nodes, mut answers, mut made) = (self.nodes.clone(), vec![], vec![]);
        for (op, time) in ops {
            let before = nodes.clone();
            let (answer, changed) = self.act(&mut nodes, domain, op, *time);
            answers.push(answer);
            if changed {
                made.push((op.clone(), before));
            }
        }
        self.nodes = nodes;
        self.changes += made.len();
        for (op, before) in made {
            let is_removal = matches!(op, Op::Remove(_));
            let (Op::Write(path, _) | Op::Mkdir(path) | Op::Remove(path) | Op::SetRights(path, _)) = op
            else {
                continue;
            };
            self.tell(&path, is_removal, &before);
        }
        answers
    }

    fn die(&mut self, domain: u16) {
        self.watches.retain(|(other, _)| *other != domain);
        self.since.remove(&domain);
        let tops = self.nodes.iter().filter(|(_, node)| node.rights[0].0 == domain);
        let mut tops: Vec<String> = tops.map(|(path, _)| path.clone()).collect();
        tops.retain(|path| path != "/");
        let all = tops.clone();
        tops.retain(|path| !all.iter().any(|other| other != path && is_within(path, other)));
        let before = self.nodes.clone();
        self.nodes.retain(|path, _| !tops.iter().any(|top| is_within(path, top)));
        for node in self.nodes.values_mut() {
            let mut first = true;
            node.rights.retain(|(other, _)| core::mem::take(&mut first) || *other != domain);
        }
        self.changes += 1;
        tops.iter().for_each(|path| self.tell(path, true, &before));
    }
}

fn perform(server: &mut Server, client: Connection, id: Id, op: &Op) -> Answer {
    let none = |()| vec![];
    match op {
        Op::Write(path, value) => server.write(client, id, path, value).map(none),
        Op::Mkdir(path) => server.mkdir(client, id, path).map(none),
        Op::Remove(path) => server.remove(client, id, path).map(none),
        Op::SetRights(path, rights) => {
            server.set_rights(client, id, path, Rights::new(rights).unwrap()).map(none)
        }
        Op::Read(path) => server.read(client, id, path).map(|value| vec![format!("{value:?}")]),
        Op::List(path) => server.directory(client, id, path).map(|(names, _)| names),
    }
}

/// A node's path, value and rights.
type Listed = (String, Vec<u8>, Vec<(u16, Permission)>);

/// The whole tree as the model has it, without the moments at which rights were written.
fn all(server: &Server) -> Vec<Listed> {
    let mut nodes = vec![];
    let mut rest = vec![("/".to_string(), &server.tree.root)];
    while let Some((path, node)) = rest.pop() {
        let above = if path == "/" { "" } else { &path };
        let mut by_name: Vec<_> = (0..).map_while(|place| node.children.at(place)).collect();
        rest.extend(by_name.iter().map(|(name, child)| (format!("{above}/{name}"), *child)));
        by_name.sort_by_key(|(_, child)| child.made);
        let next = |last: &(&str, &tree::Node)| node.children.made_after(last.1.made);
        let by_age: Vec<_> = core::iter::successors(node.children.made_after(0), next).collect();
        let names = |list: &[(&str, &tree::Node)]| list.iter().map(|it| it.0.to_string()).collect::<Vec<_>>();
        assert_eq!(names(&by_age), names(&by_name), "in the order in which they were made");
        nodes.push((path, node.value.clone(), node.rights.entries().to_vec()));
    }
    nodes.sort_by(|a, b| a.0.cmp(&b.0));
    nodes
}

fn path() -> impl Strategy<Value = String> {
    let top = prop_oneof![
        3 => (0..4u16).prop_map(|domain| if domain == 0 { "/s".into() } else { home(domain) }),
        1 => Just("/s".to_string()),
    ];
    (top, prop::sample::select(vec!["", "/a", "/b", "/a/a", "/a/b", "/a/b/c"]))
        .prop_map(|(top, rest)| top + rest)
}

fn right() -> impl Strategy<Value = (u16, Permission)> {
    let permission =
        prop::sample::select(vec![Permission::None, Permission::Read, Permission::Write, Permission::Both]);
    (0..5u16, permission)
}

fn step() -> impl Strategy<Value = (u16, Step)> {
    let op = prop_oneof![
        4 => (path(), prop::collection::vec(any::<u8>(), 0..3)).prop_map(|(path, value)| Op::Write(path, value)),
        2 => path().prop_map(Op::Mkdir),
        2 => path().prop_map(Op::Remove),
        2 => ((0..4u16), prop::collection::vec(right(), 1..4), path()).prop_map(|(owner, mut rights, path)| {
            rights[0].0 = owner;
            Op::SetRights(path, rights)
        }),
        2 => path().prop_map(Op::Read),
        1 => path().prop_map(Op::List),
    ];
    let step = prop_oneof![
        16 => (any::<bool>(), op).prop_map(|(inside, op)| Step::Do(inside, op)),
        2 => Just(Step::Begin),
        3 => prop::bool::weighted(0.8).prop_map(Step::End),
        2 => path().prop_map(Step::Watch),
        1 => path().prop_map(Step::Unwatch),
        1 => Just(Step::Die),
    ];
    // A client and its domain have the same number.
    (0..4u16, step)
}

/// A toolstack and domains 1 to 3.
struct World {
    server: Server,
    clients: Vec<Connection>,
    open: Vec<Option<Open>>,
    model: Model,
}

impl World {
    fn new() -> Self {
        let mut server = Server::default();
        let clients: Vec<_> = (0..4).map(|domain| server.connect(domain, domain == 0, None)).collect();
        let root = Node { value: vec![], rights: vec![(0, Permission::Read)], written: 0 };
        let since = (0..4).map(|domain| (domain, usize::from(domain > 0))).collect();
        let model = Model {
            nodes: BTreeMap::from([("/".into(), root)]),
            time: 1,
            changes: 0,
            since,
            watches: BTreeSet::new(),
            told: BTreeSet::new(),
        };
        let open = (0..4).map(|_| None).collect();
        let mut world = Self { server, clients, open, model };
        for domain in 1..4 {
            world.step(0, Step::Do(false, Op::Mkdir(home(domain))));
            let rights = vec![(domain, Permission::None), (domain % 3 + 1, Permission::Read)];
            world.step(0, Step::Do(false, Op::SetRights(home(domain), rights)));
        }
        world
    }

    fn step(&mut self, who: u16, step: Step) {
        let (index, client) = (usize::from(who), self.clients[usize::from(who)]);
        self.model.time += 1;
        let time = self.model.time;
        match step {
            Step::Do(inside, op) => {
                // A toolstack knows of a domain first.
                if let (0, Op::SetRights(_, rights)) = (who, &op) {
                    for (domain, _) in rights {
                        self.model.since.entry(*domain).or_insert(time);
                    }
                }
                let open = self.open[index].as_mut().filter(|_| inside);
                let id = open.as_ref().map_or(NONE, |open| open.id);
                let answer = perform(&mut self.server, client, id, &op);
                match open {
                    None => assert_eq!(answer, self.model.run(who, &[(op, time)])[0]),
                    Some(open) => {
                        if open.changes == self.model.changes {
                            let mut nodes = self.model.nodes.clone();
                            for (op, time, _) in &open.done {
                                let _ = self.model.act(&mut nodes, who, op, *time);
                            }
                            assert_eq!(answer, self.model.act(&mut nodes, who, &op, time).0, "{op:?}");
                        }
                        open.done.push((op, time, answer));
                    }
                }
            }
            Step::Begin if self.open[index].is_none() => {
                let id = self.server.begin(client).unwrap();
                self.open[index] = Some(Open { id, done: vec![], changes: self.model.changes });
            }
            Step::End(commit) => self.end(who, commit),
            Step::Watch(path) => {
                let is_new = self.model.watches.insert((who, path.clone()));
                let expected = if is_new { Ok(()) } else { Err(Errno::EEXIST) };
                assert_eq!(self.server.watch(client, &path, &path), expected);
                if is_new {
                    self.model.told.insert((who, path.clone(), path));
                }
            }
            Step::Unwatch(path) => {
                let was = self.model.watches.remove(&(who, path.clone()));
                let expected = if was { Ok(()) } else { Err(Errno::ENOENT) };
                assert_eq!(self.server.unwatch(client, &path, &path), expected);
            }
            Step::Die if who > 0 => {
                self.server.release(who);
                self.model.die(who);
                self.open[index] = None;
                self.clients[index] = self.server.connect(who, false, None);
                self.model.since.insert(who, time);
            }
            Step::Begin | Step::Die => {}
        }
        self.check();
    }

    fn end(&mut self, who: u16, commit: bool) {
        let (index, client) = (usize::from(who), self.clients[usize::from(who)]);
        let Some(open) = self.open[index].take() else { return };
        let result = self.server.end(client, open.id, commit);
        if !commit {
            return assert_eq!(result, Ok(()));
        }
        if let Err(error) = result {
            assert_eq!(error, Errno::EAGAIN);
            let owners = open.done.iter().any(|(op, ..)| matches!(op, Op::SetRights(..)));
            assert!(open.changes != self.model.changes || owners, "nobody disturbed it");
            return;
        }
        // What was refused is not done again, and what it says may have changed.
        let done: Vec<_> = open.done.into_iter().filter(|(.., answer)| answer.is_ok()).collect();
        let ops: Vec<_> = done.iter().map(|(op, time, _)| (op.clone(), *time)).collect();
        let mut again = self.model.run(who, &ops);
        for ((op, ..), answer) in done.iter().zip(&mut again) {
            // What is to go is not there: whether the one above is makes no difference to that.
            if matches!(op, Op::Remove(_)) && *answer == Err(Errno::ENOENT) {
                *answer = Ok(vec![]);
            }
        }
        let saw: Vec<_> = done.into_iter().map(|(.., answer)| answer).collect();
        assert_eq!(again, saw, "as if all of it had been done now");
    }

    fn check(&mut self) {
        let expected = self.model.nodes.iter();
        let expected = expected.map(|(path, node)| (path.clone(), node.value.clone(), node.rights.clone()));
        let expected: Vec<_> = expected.collect();
        assert_eq!(all(&self.server), expected);
        let mut told = BTreeSet::new();
        for (domain, client) in (0..).zip(&self.clients) {
            for (path, token) in events(&mut self.server, *client) {
                assert!(told.insert((domain, path, token)), "told twice");
            }
        }
        assert_eq!(told, core::mem::take(&mut self.model.told));
        for (domain, client) in (0..4u16).zip(&self.clients) {
            let owned = self.model.nodes.iter().filter(|(_, node)| node.rights[0].0 == domain);
            let (mut nodes, mut bytes) = (0, account::CLIENT);
            for (path, node) in owned {
                let name = if path == "/" { 0 } else { path.rsplit('/').next().unwrap().len() };
                nodes += 1;
                bytes += account::NODE + name + node.value.len() + node.rights.len() * account::RIGHT;
            }
            let watches = self.model.watches.iter().filter(|(other, _)| *other == domain);
            bytes += watches.map(|(_, path)| account::WATCH + 3 * path.len()).sum::<usize>();
            let kept = &self.server.clients[client].kept;
            bytes += kept.transactions.values().map(|transaction| transaction.charged).sum::<usize>();
            assert_eq!(self.server.accounts.of(domain), account::Account { nodes, bytes }, "domain {domain}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_server_does_as_the_model(steps in prop::collection::vec(step(), 1..80)) {
        let mut world = World::new();
        for (who, step) in steps {
            world.step(who, step);
        }
    }
}
