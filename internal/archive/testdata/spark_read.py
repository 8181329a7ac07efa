"""Reads an archive as an external Hive table with PySpark, and prints what it found as JSON on the last line."""
import json
import sys

from pyspark.sql import SparkSession

root, scratch = sys.argv[1], sys.argv[2]
spark = (SparkSession.builder.master("local[1]").appName("archive")
         .config("spark.driver.host", "127.0.0.1").config("spark.driver.bindAddress", "127.0.0.1").config("spark.ui.enabled", "false")
         .config("spark.sql.warehouse.dir", scratch + "/warehouse").config("spark.driver.memory", "1g")
         .config("spark.hadoop.javax.jdo.option.ConnectionURL", f"jdbc:derby:;databaseName={scratch}/metastore;create=true")
         .config("spark.sql.session.timeZone", "UTC").enableHiveSupport().getOrCreate())
spark.sql(f"""CREATE EXTERNAL TABLE answers (part STRING, study_id BIGINT, response_id BIGINT, position INT, participant_id BIGINT, site_id BIGINT,
  task_id BIGINT, questionnaire_url STRING, questionnaire_version STRING, link_id STRING, value_type STRING, value_boolean BOOLEAN,
  value_number DOUBLE, value_text STRING, value_system STRING, value_code STRING, value_unit STRING, withheld BOOLEAN,
  authored_at TIMESTAMP, received_at TIMESTAMP)
  PARTITIONED BY (study BIGINT, questionnaire STRING, month STRING) STORED AS PARQUET LOCATION '{root}/answers'""")
spark.sql("MSCK REPAIR TABLE answers")
row = spark.sql("""SELECT count(*) AS answers, count_if(withheld) AS withheld, count(DISTINCT response_id) AS opened,
  CAST(sum(CASE WHEN link_id = 'pain' THEN value_number END) AS BIGINT) AS pain, count_if(value_code IN ('none', 'rash')) AS coded,
  count_if(date_format(received_at, 'yyyy-MM') <> month) AS wrongMonth FROM answers""").first()
print(json.dumps({**row.asDict(), "partitions": spark.sql("SHOW PARTITIONS answers").count()}))
