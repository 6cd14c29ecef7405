"""The schemes of artifact URIs that we serve: sorted data, which ``docs/schemes.md`` is made of."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Authority(Enum):
    """What stands between ``//`` and the path."""

    HOST = "a host, with a port where it is not the usual one"
    BUCKET = "the name of a bucket or an account; the host follows from settings"
    BUCKET_OF_NAMESPACE = "the name of a bucket, '@', and the namespace that it is in"
    REPOSITORY = "models, datasets, spaces or buckets, which one of is meant, or a model's owner"
    FILE = "nothing: the path begins with that of a file on this machine"
    FOLDER = "nothing: the path is that of a folder on this machine"


@dataclass(frozen=True)
class Scheme:
    """What a scheme's URIs may say, and what serves them.

    Attributes:
        name: In lower case.
        title: The system, for people.
        store: ``module:Class`` of the store.
        extra: The extra of this package that installs what it needs; empty where nothing is needed.
        example: A URI.
        authority: What stands before the path.
        port: The usual one of a host; None where there is none.
        options: What the query may have besides ``cred``.
        depth: So many names of the path are not ours to choose: a database, a share, a repository.
        environment: Fields of credentials, and the variables that they are read from, the first
            that is set.
        arguments: Of fsspec's file systems: our fields of what is signed in to, and what those call
            them.
    """

    name: str
    title: str
    store: str
    extra: str
    example: str
    authority: Authority
    port: int | None = None
    options: tuple[str, ...] = ()
    depth: int = 0
    environment: tuple[tuple[str, tuple[str, ...]], ...] = ()
    arguments: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Capabilities:
    """What a store can do; what all can do is not said: whole files only, deleting, folders listed.

    Attributes:
        checksum: What is compared of each file.
        replaces: How a file comes in place of another one.
        parts: Whether what is lost of a large file is sent or fetched again without the rest.
        folders: Whether a file and a folder of one name exclude each other, and folders can be
            empty.
        signed_urls: What signs URLs, by which clients of MLflow's server go there themselves;
            empty where nothing does.
    """

    checksum: str
    replaces: str
    parts: str
    folders: bool
    signed_urls: str = ""


_DATABASE = "mlflow_exec.storage.database:DatabaseStore"

_SFTP = "mlflow_exec.storage.sftp:SftpStore"
_ALIBABA = "mlflow_exec.storage.oss:OssStore"
_HUGGING_FACE = "mlflow_exec.storage.huggingface:HfStore"
_HF_BUCKETS = "mlflow_exec.storage.huggingface_buckets:HfBucketStore"
_ORACLE = "mlflow_exec.storage.oci:OciStore"
_HDFS = "mlflow_exec.storage.webhdfs:HdfsStore"

_SQL = (
    ("hosts", ("MLFLOW_EXEC_SQL_HOST",)),
    ("user", ("MLFLOW_EXEC_SQL_USER",)),
    ("password", ("MLFLOW_EXEC_SQL_PASSWORD",)),
)
_MSSQL_OPTIONS = ("driver", "Encrypt", "TrustServerCertificate")

_WEBDAV = "mlflow_exec.storage.webdav:WebdavStore"
_HTTP = (
    ("hosts", ("MLFLOW_EXEC_WEBDAV_HOST",)),
    ("user", ("MLFLOW_EXEC_WEBDAV_USER",)),
    ("password", ("MLFLOW_EXEC_WEBDAV_PASSWORD",)),
    ("token", ("MLFLOW_EXEC_WEBDAV_TOKEN",)),
)
_AZURE_BLOBS = "mlflow_exec.storage.objects_azure:AzureStore"
_FILES = "mlflow_exec.storage.folders_fsspec:FsspecStore"
_FTP = (
    ("hosts", ("MLFLOW_EXEC_FTP_HOST",)),
    ("user", ("MLFLOW_EXEC_FTP_USER",)),
    ("password", ("MLFLOW_EXEC_FTP_PASSWORD",)),
)
_SMB = "mlflow_exec.storage.smb:SmbStore"
_SHARE = (
    ("hosts", ("MLFLOW_EXEC_SMB_HOST",)),
    ("user", ("MLFLOW_EXEC_SMB_USER",)),
    ("password", ("MLFLOW_EXEC_SMB_PASSWORD",)),
)
_SSH = (
    ("hosts", ("MLFLOW_EXEC_SSH_HOST",)),
    ("user", ("MLFLOW_EXEC_SSH_USER",)),
    ("password", ("MLFLOW_EXEC_SSH_PASSWORD",)),
    ("private_key", ("MLFLOW_EXEC_SSH_PRIVATE_KEY",)),
    ("host_key", ("MLFLOW_EXEC_SSH_HOST_KEY",)),
)

_S3 = (
    ("endpoint", ("MLFLOW_S3_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")),
)
_HF = (
    ("endpoint", ("HF_ENDPOINT",)),
    ("token", ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")),
)
_OCI = (
    ("endpoint", ("OCI_CLI_ENDPOINT",)),
    ("region", ("OCI_REGION", "OCI_CLI_REGION")),
    ("principal", ("OCIFS_IAM_TYPE", "OCI_CLI_AUTH")),
    ("account", ("OCI_CLI_TENANCY",)),
    ("user", ("OCI_CLI_USER",)),
    ("key_id", ("OCI_CLI_FINGERPRINT",)),
    ("private_key", ("OCI_CLI_KEY_CONTENT",)),
    ("password", ("OCI_CLI_PASSPHRASE",)),
)
_OSS = (
    ("endpoint", ("MLFLOW_OSS_ENDPOINT_URL", "OSS_ENDPOINT")),
    ("region", ("OSS_REGION",)),
    ("key_id", ("MLFLOW_OSS_KEY_ID", "OSS_ACCESS_KEY_ID")),
    ("key_secret", ("MLFLOW_OSS_KEY_SECRET", "OSS_ACCESS_KEY_SECRET")),
    ("session_token", ("MLFLOW_OSS_SESSION_TOKEN", "OSS_SESSION_TOKEN")),
)
# GOOGLE_APPLICATION_CREDENTIALS is read by Google's own chain.
_GOOGLE = (
    ("endpoint", ("STORAGE_EMULATOR_HOST",)),
    ("token", ("CLOUDSDK_AUTH_ACCESS_TOKEN",)),
)
_AZURE = (
    ("connection_string", ("AZURE_STORAGE_CONNECTION_STRING",)),
    ("account", ("AZURE_STORAGE_ACCOUNT_NAME",)),
    ("key_secret", ("AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_ACCESS_KEY")),
    ("token", ("AZURE_STORAGE_SAS_TOKEN",)),
)

SCHEMES: tuple[Scheme, ...] = (
    Scheme(
        "artifactory", "JFrog Artifactory", "mlflow_exec.storage.artifactory:ArtifactoryStore", "",
        "artifactory://files.example/artifactory/ml-local/mlflow", Authority.HOST, 443, (), 2, (
            ("hosts", ("MLFLOW_EXEC_ARTIFACTORY_HOST",)),
            ("token", ("ARTIFACTORY_AUTH_TOKEN",)),
            ("user", ("ARTIFACTORY_USER",)),
            ("password", ("ARTIFACTORY_PASSWORD",)),
            ("key_secret", ("ARTIFACTORY_API_KEY",)),
        ),
    ),
    Scheme(
        "file-plugin", "a folder of this machine", "mlflow_exec.storage.local:LocalStore", "",
        "file-plugin:/data/mlruns", Authority.FOLDER,
    ),
    Scheme(
        "fsspec+abfs", "Azure Blob Storage", _AZURE_BLOBS, "azure",
        "fsspec+abfs://container/artifacts", Authority.BUCKET, None, (), 0, _AZURE,
    ),
    Scheme(
        "fsspec+ftp", "FTP", _FILES, "ftp", "fsspec+ftp://files.example/data/artifacts",
        Authority.HOST, 21, (), 0, _FTP,
        (("host", "host"), ("port", "port"), ("user", "username"), ("password", "password")),
    ),
    Scheme(
        "fsspec+gs", "Google Cloud Storage", "mlflow_exec.storage.gcs:GcsStore", "gcs",
        "fsspec+gs://bucket/artifacts", Authority.BUCKET, None, (), 0, _GOOGLE,
    ),
    Scheme(
        "fsspec+s3", "S3, and what speaks it", "mlflow_exec.storage.objects_s3:S3Store", "s3",
        "fsspec+s3://bucket/artifacts", Authority.BUCKET, None, (), 0, _S3,
    ),
    Scheme(
        "fsspec+sftp", "SFTP (SSH)", _SFTP, "sftp", "fsspec+sftp://files.example/data/artifacts",
        Authority.HOST, 22, (), 0, _SSH,
    ),
    Scheme(
        "hf", "Hugging Face repository", _HUGGING_FACE, "hf",
        "hf://datasets/team/artifacts", Authority.REPOSITORY, None, (), 2, _HF,
    ),
    Scheme(
        "hf", "Hugging Face bucket", _HF_BUCKETS, "hf",
        "hf://buckets/team/artifacts", Authority.REPOSITORY, None, (), 2, _HF,
    ),
    Scheme(
        "mssql+pyodbc", "Microsoft SQL Server", _DATABASE, "mssql",
        "mssql+pyodbc://db.example/artifacts?driver=ODBC+Driver+18+for+SQL+Server",
        Authority.HOST, 1433, _MSSQL_OPTIONS, 1, _SQL,
    ),
    Scheme(
        "mysql", "MySQL, MariaDB", _DATABASE, "mysql", "mysql://db.example/artifacts",
        Authority.HOST, 3306, (), 1, _SQL,
    ),
    Scheme(
        "mysql+pymysql", "MySQL, MariaDB", _DATABASE, "mysql",
        "mysql+pymysql://db.example/artifacts", Authority.HOST, 3306, (), 1, _SQL,
    ),
    Scheme(
        "oci", "Oracle Cloud Object Storage", _ORACLE, "oci",
        "oci://bucket@namespace/artifacts", Authority.BUCKET_OF_NAMESPACE, None, (), 0, _OCI,
    ),
    Scheme(
        "oss", "Alibaba Cloud OSS", _ALIBABA, "oss",
        "oss://bucket/artifacts", Authority.BUCKET, None, (), 0, _OSS,
    ),
    Scheme(
        "postgresql", "PostgreSQL", _DATABASE, "postgresql", "postgresql://db.example/artifacts",
        Authority.HOST, 5432, ("sslmode",), 1, _SQL,
    ),
    Scheme(
        "smb", "SMB share (Windows, Samba)", _SMB, "smb", "smb://files.example/share/artifacts",
        Authority.HOST, 445, (), 1, _SHARE,
    ),
    Scheme(
        "sqlite", "SQLite", _DATABASE, "", "sqlite:////data/artifacts.db", Authority.FILE,
    ),
    Scheme(
        "swebhdfs", "HDFS (REST, TLS)", _HDFS, "", "swebhdfs://namenode.example/data/artifacts",
        Authority.HOST, 9871,
    ),
    Scheme(
        "webdav", "WebDAV", _WEBDAV, "", "webdav://files.example/data/artifacts",
        Authority.HOST, 80, (), 0, _HTTP,
    ),
    Scheme(
        "webdavs", "WebDAV (TLS)", _WEBDAV, "", "webdavs://files.example/data/artifacts",
        Authority.HOST, 443, (), 0, _HTTP,
    ),
    Scheme(
        "webhdfs", "HDFS (REST)", _HDFS, "", "webhdfs://namenode.example/data/artifacts",
        Authority.HOST, 9870,
    ),
)  # fmt: skip
_AT_ONCE = "at once"
_BY_RENAMING = "at once, by renaming"
_SIZE = "size; content with `MLFLOW_EXEC_READ_BACK=1`"
_EACH_PART = "up and down"
_DOWN = "down; up from the beginning"
_EVERY = "with every credential"
CAPABILITIES: dict[str, Capabilities] = {
    _DATABASE: Capabilities("SHA-256, kept with it", _AT_ONCE, _EACH_PART, True),
    _AZURE_BLOBS: Capabilities(
        "MD5 of each part, both ways", _AT_ONCE, _EACH_PART, False, "with the account's key"
    ),
    _FILES: Capabilities(_SIZE, "by renaming, as the server does it", "from the beginning", True),
    _HDFS: Capabilities(_SIZE, _BY_RENAMING, _DOWN, True),
    _SFTP: Capabilities(_SIZE, _BY_RENAMING, _DOWN, True),
    _SMB: Capabilities(_SIZE, _BY_RENAMING, _DOWN, True),
    _WEBDAV: Capabilities(_SIZE, "as the server does: some with a gap", _DOWN, True),
    _HUGGING_FACE: Capabilities("SHA-256 or git's hash, both ways", _AT_ONCE, _EACH_PART, True),
    _HF_BUCKETS: Capabilities("Xet's hash, both ways", _AT_ONCE, _EACH_PART, False),
    _ORACLE: Capabilities("CRC32C, both ways", _AT_ONCE, _EACH_PART, False),
    _ALIBABA: Capabilities(
        "MD5 of each part up; CRC-64 down", _AT_ONCE, _EACH_PART, False, _EVERY
    ),
    "mlflow_exec.storage.artifactory:ArtifactoryStore": Capabilities(
        "SHA-256, both ways", _AT_ONCE, "down; up what it has already", True
    ),
    "mlflow_exec.storage.gcs:GcsStore": Capabilities(
        "CRC32C, both ways", _AT_ONCE, _EACH_PART, False, "with a service account's key"
    ),
    "mlflow_exec.storage.local:LocalStore": Capabilities(_SIZE, _BY_RENAMING, "no", True),
    "mlflow_exec.storage.objects_s3:S3Store": Capabilities(
        "CRC-32 of each part up; down where S3 has one", _AT_ONCE, _EACH_PART, False, _EVERY
    ),
}
"""By the store's reference."""
assert [s.name for s in SCHEMES] == sorted(s.name for s in SCHEMES), "keep SCHEMES sorted"
BY_NAME = {scheme.name: scheme for scheme in reversed(SCHEMES)}
"""By the name in a URI; the first of those that share one."""
HF_BUCKETS = next(scheme for scheme in SCHEMES if scheme.store == _HF_BUCKETS)
"""What ``hf`` is where ``buckets`` stands after it."""
