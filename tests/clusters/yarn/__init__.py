"""A YARN and HDFS of Hadoop's own daemons, for the tests."""
