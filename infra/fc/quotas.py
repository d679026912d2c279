"""What Function Compute allows: every limit once, with its unit and where it was read.

Only facts about the platform live here; what this service chose within them lives in s.yaml.
"page NN/MMM" is docs/zh-CN/02.云函数/NN.../MMM... of github.com/aliyun-fc/fc-docs at 37ecbc6 (2026-08-09),
the text of help.aliyun.com/functioncompute. "API" is the model in the package alibabacloud-fc20230330 4.8.3.
"fc3" is github.com/devsapp/fc3 at 4ca1c1b (component 0.1.22). Where sources disagree: the stricter.
"""

from __future__ import annotations

from collections.abc import Mapping

# --- the card ---
T4_GPU_TYPE = "fc.gpu.tesla.1"
T4_GPU_MEMORY_MB = 16_384  # page 01/006: whole cards only; the 1-16 GB slices of FC 2.0 are gone
T4_MEMORY_STEP_MB = 4_096  # page 01/006
# vCPU of one card -> the most memory, MB, it may have (page 01/006; page 01/009 still says 32 GB at most)
T4_MAX_MEMORY_MB: Mapping[int, int] = {4: 16_384, 8: 32_768, 16: 65_536}
T4_REGIONS = frozenset(  # page 01/006; cn-zhangjiakou left out: page 01/003 says it has no GPU at all
    {"cn-hangzhou", "cn-shanghai", "cn-beijing", "cn-shenzhen", "ap-northeast-1", "ap-southeast-1", "us-east-1"}
)
T4_CARDS_PER_REGION = 10  # page 01/009: quota of an account in one region; raised in the Quota Center
MAX_MIN_INSTANCES = 10_000  # API: defaultTarget
T4_ON_REQUEST_CARDS = 3  # page 01/009: of these, instances that requests (not min instances) may start
SCHEDULE = r"cron\(\S+ \S+ \S+ \S+ \S+ \S+\)|at\(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\)"  # page 04/045: when an action begins

# --- the function ---
MAX_TIMEOUT_S = 86_400  # pages 01/006 and 01/009
MAX_INSTANCE_CONCURRENCY = 200  # page 04/034: requests at once in one instance
SMALL_DISK_MB = 512  # API: 512 or 10240; page 01/006 also 10-200 GB in 10 GB steps
DISK_STEP_MB = 10_240  # page 01/006
MAX_DISK_MB = 204_800  # page 01/006
MAX_ENVIRONMENT_BYTES = 4_096  # page 04/047: all keys and values together
RESERVED_ENVIRONMENT_PREFIX = "FC_"  # page 04/047

# --- a start and an end ---
LISTEN_WITHIN_S = 120  # page 04/126: the port accepts connections, else FunctionNotStarted
MAX_INITIALIZER_S = 300  # pages 01/009 and 04/125 (page 05/027 fills in 600: not believed)
MAX_PRE_STOP_S = 90  # page 01/009

# healthCheckConfig key -> least and most (API CustomHealthCheckConfig)
HEALTH_CHECK_RANGES: Mapping[str, tuple[int, int]] = {
    "initialDelaySeconds": (0, 120),
    "periodSeconds": (1, 120),
    "timeoutSeconds": (1, 3),
    "failureThreshold": (1, 120),
    "successThreshold": (1, 120),
}

# --- requests ---
MAX_REQUEST_BYTES = 32 * 1024 * 1024  # page 04/071: synchronous body
MAX_HEADER_BYTES = 8 * 1024  # page 04/071: all request headers, and all response headers

# --- the image ---
MAX_IMAGE_GB = 15  # page 01/006, compressed; page 01/009 says 30 since December 2025

# --- keys the fc3 component reads itself, so that they never reach an API model ---
# fc3 src/subCommands/deploy: split off before CreateFunction
COMPONENT_KEYS = frozenset({"region", "endpoint", "annotations", "supplement", "vpcBinding", "customDomain"})
PROVISION_REQUIRED = (  # fc3 schema; the API's own defaults for the flags are true: the full price, always
    *("alwaysAllocateCPU", "alwaysAllocateGPU", "defaultTarget", "scheduledActions", "targetTrackingPolicies"),
)
SCALING_COMPONENT_KEYS = frozenset({"qualifier", "mode", "target"})  # fc3 impl/{provision,scaling}_config.ts
TRIGGER_KEYS = frozenset(  # fc3 schema
    {"triggerName", "triggerType", "triggerConfig", "qualifier", "invocationRole", "sourceArn", "description"}
)
AUTO_KEYS = frozenset({"logConfig", "vpcConfig", "nasConfig", "ossMountConfig"})  # fc3: may be the word "auto"


def legal_t4_memory_mb(cpu: float) -> tuple[int, ...]:
    """Memory sizes, MB, that FC sells with `cpu` vCPU beside one T4; empty if it sells none."""
    most = T4_MAX_MEMORY_MB.get(int(cpu), 0) if cpu == int(cpu) else 0
    return tuple(range(T4_MEMORY_STEP_MB, most + 1, T4_MEMORY_STEP_MB))
