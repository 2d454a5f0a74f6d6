//! `wal dump`: records as `pg_waldump` prints them, or as JSON lines.

use pgwal::rmgr::{Description, Value};
use pgwal::waldump::WaldumpLine;
use pgwal::{BlockRef, Parts, Record};
use serde_json::{Map, json};

use super::filter::Filter;
use super::input::{Input, Pace};
use super::stream::{self, Ended};
use super::{Lines, Stop};
use crate::args::DumpArgs;

pub(super) fn run(input: &Input, args: &DumpArgs, lines: &mut Lines) -> Result<Option<Ended>, Stop> {
    let (mut filter, mut description) = (Filter::new(&args.filter), Description::new());
    let mut left = args.limit.unwrap_or(u32::MAX);
    stream::records(input, &args.source, Pace::OfOutput, |record, parts| {
        if !filter.accepts(record, parts) {
            return Ok(());
        }
        description.read(record, parts);
        let line = WaldumpLine { record, parts, description: &description, block_details: args.bkp_details };
        lines.line(|| line.to_string(), || object(record, parts, &description))?;
        left -= u32::from(args.limit.is_some());
        // Enough: the output is flushed by whoever stops.
        if left == 0 { Err(Stop::Closed) } else { Ok(()) }
    })
    .or_else(|stop| match stop {
        Stop::Closed => Ok(None),
        failed @ Stop::Failed(_) => Err(failed),
    })
}

fn object(record: &Record<'_>, parts: &Parts, description: &Description) -> serde_json::Value {
    let header = &record.header;
    let fields: Map<String, serde_json::Value> =
        description.fields().iter().map(|(name, field)| ((*name).to_owned(), value(field))).collect();
    json!({
        "lsn": record.lsn.to_string(),
        "end": record.end.to_string(),
        "prev": header.prev.to_string(),
        "xid": header.xid,
        "rmgr": record.rmgr().to_string(),
        "operation": record.operation_name(),
        "length": header.total_bytes,
        "image_length": parts.image_bytes(),
        "origin": parts.origin,
        "toplevel_xid": parts.toplevel_xid,
        "description": description.text(),
        "fields": fields,
        "blocks": parts.blocks.iter().map(block).collect::<Vec<_>>(),
    })
}

fn block(block: &BlockRef) -> serde_json::Value {
    json!({
        "id": block.id,
        "relation": block.relation.to_string(),
        "fork": block.fork.name(),
        "block": block.block,
        "will_init": block.will_init,
        "data_length": block.data.len(),
        "image": block.image.as_ref().map(|image| json!({
            "length": image.stored_bytes(),
            "hole_offset": image.hole_offset,
            "hole_length": image.hole_length,
            "apply": image.apply,
            "compression": image.compression.map(|method| method.name()),
        })),
    })
}

fn value(field: &Value) -> serde_json::Value {
    match field {
        Value::Number(number) => json!(number),
        Value::Signed(number) => json!(number),
        Value::Flags(flags) => json!(flags),
        Value::Flag(flag) => json!(flag),
        Value::Real(number) => json!(number),
        Value::Time(time) => json!(time.to_string()),
        Value::Relation(_) | Value::FullXid(_) | Value::Lsn(_) => json!(field.to_string()),
        // Some end with the space before what follows in a line.
        Value::Text(text) => json!(text.trim_end()),
        Value::List(list) => list.iter().map(value).collect(),
    }
}
