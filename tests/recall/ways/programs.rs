//! Programs that read or copy a stub.

use super::super::trouble::{Touched, must, same};
use super::{Needs, Place, Way, lines, shell, write};
use crate::support::content::noise;
use crate::support::guarded::is_stub;

use Needs::{Content, Name};

pub const PROGRAMS: &[Way] = &[
    Way::new("cat", Content, |p| copied(p, "cat data > \"$out\"")),
    Way::new("dd-sparse", Content, |p| copied(p, "dd if=data of=\"$out\" bs=64k conv=sparse status=none")),
    Way::new("cp", Content, |p| copied(p, "cp data \"$out\"")),
    Way::new("cp-sparse", Content, |p| copied(p, "cp --sparse=always data \"$out\"")),
    Way::new("cp-reflink", Content, |p| copied(p, "cp --reflink=auto data \"$out\"")),
    Way::new("cp-far", Content, |p| far(p, "cp -a data \"$far\"")),
    // It ends with 1 where the ctime moved while it read; what it has is compared all the same.
    Way::new("tar", Content, |p| {
        copied(p, "{ tar -cf \"$out.tar\" data || [ $? = 1 ]; } && tar -xOf \"$out.tar\" > \"$out\"")
    }),
    Way::new("tar-sparse", Content, |p| {
        copied(p, "{ tar -S -cf \"$out.tar\" data || [ $? = 1 ]; } && tar -xOf \"$out.tar\" > \"$out\"")
    }),
    Way::new("rsync", Content, |p| far(p, "rsync data \"$far\"")).by("rsync"),
    Way::new("rsync-sparse", Content, |p| far(p, "rsync -S data \"$far\"")).by("rsync"),
    Way::new("mv-far", Content, |p| far(p, "mv data \"$far\"")),
    Way::new("install", Content, |p| copied(p, "install -m 600 data \"$out\"")),
    Way::new("grep", Content, grep).with(lines),
    Way::new("git-hash-object", Content, hash_object).by("git"),
    Way::new("git-status", Content, git_status).by("git").with(repository),
    Way::new("git-add", Content, git_add).by("git").with(lines),
    Way::new("sqlite", Content, sqlite).with(database),
    Way::new("sqlite-write", Content, sqlite_write).with(database),
    Way::new("cc", Content, compiled).by("cc").with(sources),
    Way::new("mv", Name, moved),
    Way::new("cp-link", Name, linked),
];

fn copied(p: &Place, line: &str) -> Touched {
    shell(p, line)?;
    same(&std::fs::read(&p.out)?, &p.content)
}

fn far(p: &Place, line: &str) -> Touched {
    shell(p, line)?;
    same(&std::fs::read(&p.far)?, &p.content)
}

fn grep(p: &Place) -> Touched {
    let seen = shell(p, "grep -c ^line data")?.stdout;
    let want = p.content.split(|b| *b == b'\n').filter(|line| line.starts_with(b"line")).count();
    must(seen.trim() == want.to_string(), &format!("grep found {seen:?} instead of {want}"))
}

fn hash_object(p: &Place) -> Touched {
    let seen = shell(p, "git hash-object data")?.stdout;
    // Given by standard input, it opens nothing of ours.
    std::fs::write(&p.out, &p.content)?;
    let want = shell(p, "git hash-object --stdin < \"$out\"")?.stdout;
    must(seen == want, &format!("git sees {} instead of {}", seen.trim(), want.trim()))
}

fn repository(p: &mut Place) {
    lines(p);
    shell(p, "git init -q . && git add data && git commit -qm first").expect("a repository");
}

/// Git takes a file that it cannot read for changed: that is no wrong byte, only no answer.
fn git_status(p: &Place) -> Touched {
    let output = shell(p, "git status --porcelain && git diff --exit-code && git fsck")?;
    match output.stdout.is_empty() {
        true => Ok(()),
        false => Err(super::super::trouble::Trouble::Failed(format!("git status: {}", output.stdout))),
    }
}

fn git_add(p: &Place) -> Touched {
    shell(p, "rm -rf .git && git init -q . && git add data && git show :data > \"$out\"")?;
    same(&std::fs::read(&p.out)?, &p.content)
}

fn database(p: &mut Place) {
    let db = rusqlite::Connection::open(&p.file).unwrap();
    db.execute_batch("create table t(a integer, b text)").unwrap();
    let mut insert = db.prepare("insert into t values (?, ?)").unwrap();
    db.execute_batch("begin").unwrap();
    for i in 0..5000 {
        insert.execute((i, format!("row {i} {}", "x".repeat(50)))).unwrap();
    }
    db.execute_batch("commit").unwrap();
}

fn summed(p: &Place) -> Result<i64, super::super::trouble::Trouble> {
    let failed = |e: rusqlite::Error| super::super::trouble::Trouble::Failed(e.to_string());
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_WRITE;
    let db = rusqlite::Connection::open_with_flags(&p.file, flags).map_err(failed)?;
    db.query_row("pragma integrity_check", (), |row| row.get::<_, String>(0)).map_err(failed)?;
    db.query_row("select sum(a) from t", (), |row| row.get(0)).map_err(failed)
}

fn sqlite(p: &Place) -> Touched {
    let seen = summed(p)?;
    must(seen == 12_497_500, &format!("the sum is {seen}"))
}

fn sqlite_write(p: &Place) -> Touched {
    let failed = |e: rusqlite::Error| super::super::trouble::Trouble::Failed(e.to_string());
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_WRITE;
    let db = rusqlite::Connection::open_with_flags(&p.file, flags).map_err(failed)?;
    db.execute("insert into t values (1000, 'new')", ()).map_err(failed)?;
    drop(db);
    let seen = summed(p)?;
    must(seen == 12_498_500, &format!("the sum is {seen}"))
}

fn sources(p: &mut Place) {
    let filler = "/* nothing but length */\n".repeat(2000);
    write(&p.dir.join("answer.h"), format!("{filler}#define ANSWER 42\n").as_bytes());
    p.content = noise(3, 8);
    let main = "#include \"answer.h\"\nint main(void) { return ANSWER; }\n";
    write(&p.dir.join("main.c"), format!("{filler}{main}").as_bytes());
}

fn compiled(p: &Place) -> Touched {
    let seen = shell(p, "cc -o \"$out\" main.c && { \"$out\"; echo $?; }")?.stdout;
    must(seen.trim() == "42", &format!("the program answers {seen:?}"))
}

fn moved(p: &Place) -> Touched {
    shell(p, "mkdir -p sub && mv data sub/ && mv sub/data data")?;
    must(is_stub(&p.file), "moved about, it stays a stub")
}

fn linked(p: &Place) -> Touched {
    shell(p, "cp -l data \"$out\" && rm \"$out\"")?;
    must(is_stub(&p.file), "linked, it stays a stub")
}
