//! How ill a drive is, by what smartctl says.
//!
//! Sources: the output of `smartctl -j -x` of smartmontools 7.3 (smartctl(8), `json_format_version` 1.0); for Seagate's field
//! access reliability metrics (FARM), which are per head, that of `smartctl -j -l farm` of version 7.4.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The health of a drive at one time. What the drive does not say is None.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Health {
    /// Whether the drive calls itself healthy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passed: Option<bool>,
    /// Its temperature in degrees Celsius, and the highest at which it may be used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature_celsius: Option<i64>,
    /// The highest temperature at which it may be used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature_limit_celsius: Option<i64>,
    /// How long it has been switched on, in hours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power_on_hours: Option<u64>,
    /// The number of sectors that it has replaced: attribute 5, or the grown defect list of a SCSI drive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reallocated_sectors: Option<u64>,
    /// The number of sectors that wait for that: attribute 197.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending_sectors: Option<u64>,
    /// The number of sectors that it could not read: attribute 198, or the errors of the medium of an NVMe drive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uncorrectable_sectors: Option<u64>,
    /// How much of its life an NVMe drive has used, in percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_percent: Option<u64>,
    /// What a Seagate drive says about each of its heads.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub heads: Vec<Head>,
}

/// What a drive says about a head.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Head {
    /// Its number.
    pub head: u64,
    /// Its values, by the names that smartctl has for them.
    pub values: BTreeMap<String, Value>,
}

/// The largest number of heads, of values of one, and the longest name of a value, that are taken from a report.
const MAX_HEADS: u64 = 64;
const MAX_VALUES: usize = 64;
const MAX_NAME: usize = 64;

impl Health {
    /// Reads a report of smartctl. None if the drive says nothing about its health.
    pub fn parse(report: &Value) -> Option<Health> {
        let number = |pointer: &str| report.pointer(pointer).and_then(Value::as_u64);
        let signed = |pointer: &str| report.pointer(pointer).and_then(Value::as_i64);
        let attribute = |id: u64| {
            let table = report.pointer("/ata_smart_attributes/table")?.as_array()?;
            let found = table.iter().find(|attribute| attribute["id"].as_u64() == Some(id))?;
            // The lower 32 bits count; some drives have other numbers above them.
            found.pointer("/raw/value")?.as_u64().map(|raw| raw & 0xffff_ffff)
        };
        let nvme = "/nvme_smart_health_information_log";
        let health = Health {
            passed: report.pointer("/smart_status/passed").and_then(Value::as_bool),
            temperature_celsius: signed("/temperature/current"),
            temperature_limit_celsius: signed("/temperature/op_limit_max")
                .or_else(|| signed("/temperature/drive_trip")),
            power_on_hours: number("/power_on_time/hours"),
            reallocated_sectors: attribute(5).or_else(|| number("/scsi_grown_defect_list")),
            pending_sectors: attribute(197),
            uncorrectable_sectors: attribute(198)
                .or_else(|| number(&format!("{nvme}/media_errors")))
                .or_else(|| number("/scsi_error_counter_log/read/total_uncorrected_errors")),
            used_percent: number(&format!("{nvme}/percentage_used")),
            heads: heads(&report["seagate_farm_log"]),
        };
        (health != Health::default()).then_some(health)
    }

    /// Reads what was stored of a report; what cannot be of one is left out.
    pub fn stored(value: &Value) -> Option<Health> {
        let mut health: Health = serde_json::from_value(value.clone()).ok()?;
        health.heads.retain(|head| head.head < MAX_HEADS);
        health.heads.truncate(usize::try_from(MAX_HEADS).unwrap_or(0));
        for head in &mut health.heads {
            head.values.retain(|name, value| is_name(name) && value.is_number());
        }
        Some(health)
    }

    /// Returns what has become worse since `before`, and whether the drive is too hot, as sentences.
    pub fn warnings(&self, before: Option<&Health>) -> Vec<String> {
        let mut warnings = Vec::new();
        let counts = |health: &Health| {
            [health.reallocated_sectors, health.pending_sectors, health.uncorrectable_sectors]
        };
        let names = ["reallocated sectors", "sectors pending reallocation", "uncorrectable sectors"];
        let then = before.map_or([None; 3], counts);
        for (what, (then, now)) in names.into_iter().zip(then.into_iter().zip(counts(self))) {
            if let (Some(then), Some(now)) = (then, now)
                && now > then
            {
                warnings.push(format!("{what} grew from {then} to {now}"));
            }
        }
        let failed = |health: &Health| health.passed == Some(false);
        if failed(self) && !before.is_some_and(failed) {
            warnings.push("the drive reports that it is failing".into());
        }
        let heat = |health: &Health| {
            let (now, limit) = (health.temperature_celsius?, health.temperature_limit_celsius?);
            (now > limit).then_some((now, limit))
        };
        if let Some((now, limit)) = heat(self).filter(|_| before.and_then(heat).is_none()) {
            warnings.push(format!("{now} degrees Celsius: above its limit of {limit}; cool it, or pause"));
        }
        warnings
    }
}

/// Returns whether this is a name as smartctl has them.
fn is_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Returns what FARM says about each head: names that end in `_by_head_N` or `_from_head_N`, with a number or an object of
/// numbers.
fn heads(farm: &Value) -> Vec<Head> {
    let mut heads: BTreeMap<u64, BTreeMap<String, Value>> = BTreeMap::new();
    let pages = farm.as_object().into_iter().flatten().filter_map(|(_, page)| page.as_object());
    for (name, value) in pages.flatten() {
        let Some((kind, head)) = name.rsplit_once('_') else { continue };
        let kind = kind.strip_suffix("_by_head").or_else(|| kind.strip_suffix("_from_head"));
        let (Some(kind), Ok(head @ 0..MAX_HEADS)) = (kind, head.parse()) else { continue };
        let values = heads.entry(head).or_default();
        match value {
            Value::Number(_) if values.len() < MAX_VALUES && is_name(kind) => {
                values.insert(kind.to_owned(), value.clone());
            }
            Value::Object(inner) => {
                let numbers = inner.iter().filter(|(name, value)| value.is_number() && is_name(name));
                for (name, value) in numbers.take(MAX_VALUES.saturating_sub(values.len())) {
                    values.insert(name.clone(), value.clone());
                }
            }
            _ => {}
        }
    }
    heads.into_iter().map(|(head, values)| Head { head, values }).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ata(reallocated: u64, pending: u64, temperature: i64) -> Value {
        json!({
            "smart_status": { "passed": true },
            "temperature": { "current": temperature, "op_limit_max": 60 },
            "power_on_time": { "hours": 27694 },
            "ata_smart_attributes": { "table": [
                { "id": 5, "raw": { "value": reallocated } },
                { "id": 197, "raw": { "value": pending } },
                { "id": 198, "raw": { "value": (7u64 << 32) + 2 } },
            ] },
        })
    }

    #[test]
    fn reports_of_all_kinds_of_drives_are_read() {
        let health = Health::parse(&ata(8, 16, 38)).unwrap();
        assert_eq!((health.reallocated_sectors, health.pending_sectors), (Some(8), Some(16)));
        assert_eq!((health.uncorrectable_sectors, health.power_on_hours), (Some(2), Some(27694)));
        assert_eq!((health.temperature_celsius, health.temperature_limit_celsius), (Some(38), Some(60)));
        let nvme = json!({
            "smart_status": { "passed": false },
            "nvme_smart_health_information_log": { "percentage_used": 104, "media_errors": 3 },
        });
        let health = Health::parse(&nvme).unwrap();
        assert_eq!((health.passed, health.used_percent), (Some(false), Some(104)));
        assert_eq!(health.uncorrectable_sectors, Some(3));
        let scsi = json!({
            "scsi_grown_defect_list": 12,
            "scsi_error_counter_log": { "read": { "total_uncorrected_errors": 4 } },
            "temperature": { "current": 30, "drive_trip": 65 },
        });
        let health = Health::parse(&scsi).unwrap();
        assert_eq!((health.reallocated_sectors, health.uncorrectable_sectors), (Some(12), Some(4)));
        assert_eq!(health.temperature_limit_celsius, Some(65));
        // A device that smartctl does not know, and other nonsense.
        for nothing in [json!({ "smartctl": { "exit_status": 1 } }), json!([1, 2]), json!(null)] {
            assert_eq!(Health::parse(&nothing), None);
        }
    }

    #[test]
    fn farm_speaks_of_heads() {
        let farm = json!({ "seagate_farm_log": {
            "supported": true,
            "page_3_error_statistics": {
                "number_of_reallocated_sectors": 9,
                "cum_lifetime_unrecoverable_by_head_1": {
                    "cum_lifetime_unrecoverable_read_repeating": 5,
                    "cum_lifetime_unrecoverable_read_unique": 4,
                },
            },
            "page_5_reliability_statistics": {
                "mr_head_resistance_from_head_0": 412,
                "mr_head_resistance_from_head_1": 1999,
                "number_of_reallocated_sectors_by_head_1": 9,
                "nonsense_by_head_99999": 1,
                "text_by_head_0": "x",
                "evil\u{1b}_by_head_0": 1,
            },
        }});
        let heads = Health::parse(&farm).unwrap().heads;
        assert_eq!(heads.len(), 2);
        assert_eq!(heads[0].values["mr_head_resistance"], 412);
        assert_eq!(heads[1].values["mr_head_resistance"], 1999);
        assert_eq!(heads[1].values["cum_lifetime_unrecoverable_read_unique"], 4);
        assert_eq!(heads[1].values["number_of_reallocated_sectors"], 9);
    }

    #[test]
    fn what_grows_and_what_is_hot_is_said_once() {
        let at = |reallocated, pending, temperature| {
            Health::parse(&ata(reallocated, pending, temperature)).unwrap()
        };
        let before = at(8, 16, 38);
        assert!(before.warnings(None).is_empty() && before.warnings(Some(&before)).is_empty());
        let worse = at(24, 16, 61);
        assert_eq!(
            worse.warnings(Some(&before)),
            [
                "reallocated sectors grew from 8 to 24",
                "61 degrees Celsius: above its limit of 60; cool it, or pause"
            ]
        );
        assert!(worse.warnings(Some(&worse)).is_empty());
        assert!(at(0, 0, 38).warnings(Some(&worse)).is_empty());
    }
}
